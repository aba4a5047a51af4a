"""Routes of the reader: each path's handler returns a reply, or raises a `Problem`."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from forecache.base.plugins import find_hooks
from forecache.base.table_names import NAME, split_kept_name
from forecache.kit.http import problems
from forecache.kit.http.problems import Problem, quote_value, unknown_name_problem
from forecache.kit.metrics.page import CONTENT_TYPE
from forecache.serve.reader.http import openapi
from forecache.serve.reader.http.extension import Extension, ExtensionContext
from forecache.serve.reader.http.messages import (
    NO_CACHE,
    NO_STORE,
    HttpRequest,
    Reply,
    check_method,
    etag_matches,
    parse_keys_request,
    parse_query,
    split_path,
)
from forecache.serve.reader.http.prometheus import render
from forecache.serve.reader.http.readiness import Readiness
from forecache.serve.reader.tokens import METRICS
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.describe import build_labels, pipeline_metadata, pipeline_row
from forecache.serve.reader.versions.follow import Follow
from forecache.serve.reader.worker_metrics import MISSES, ROUTE

VERSIONS_PATH, REPORTS_PATH = "/versions/", "/status/"


class Routes:
    """The handlers of the reader's paths. They never wait, so `VersionAnswers` in use stay open until they return."""

    def __init__(self, context: ExtensionContext, readiness: Readiness, extensions: Sequence[Extension] = ()) -> None:
        self._extensions, self._readiness, self._runtime = extensions, readiness, context.runtime
        self._settings = settings = context.settings
        self._catalog, self._metrics, self._access = context.catalog, context.metrics, context.access
        self._build = build_labels(settings)
        self._openapi = openapi.document(settings)
        self.follow: list[Follow] = []  # functions that the watching thread calls after each poll
        self._feast = next(find_hooks("feast"), None)
        self._fixed: dict[str, tuple[str, str, Callable[[HttpRequest], Reply]]] = {
            "/healthz": ("healthz", "GET", self._healthz),
            "/health": ("healthz", "GET", self._healthz),
            "/readyz": ("readyz", "GET", self._readyz),
            "/metrics": ("metrics", "GET", self._render_metrics),
            "/openapi.json": ("openapi", "GET", self._openapi_document),
            "/v1": ("pipelines", "GET", self._list_pipelines),
        }
        if self._feast is not None:
            self._fixed["/get-online-features"] = ("feast", "POST", self._answer_feast)
        self._pages: Any = None
        for make_pages in find_hooks("status_pages"):
            self._pages = pages = make_pages(context, readiness, extensions)
            self._fixed["/"] = ("root", "GET", pages.root)
            self._fixed["/favicon.ico"] = ("root", "GET", pages.favicon)
            self._fixed["/docs"] = ("docs", "GET", self._docs)
            self._fixed["/status"] = ("status", "GET", pages.html_or_json)
            self._fixed["/status.json"] = ("status", "GET", pages.json)
            self.follow += pages.follow

    def takes_body(self, path: str) -> bool:
        found = split_path(path)
        return path == "/get-online-features" or (found is not None and not found[1])

    def handle(self, request: HttpRequest) -> Reply:
        """The reply to a request; raises a `Problem`, or a `ForecacheError` that the store found."""
        fixed = self._fixed.get(request.path)
        if fixed is not None:
            name, method, handler = fixed
            request.route = ROUTE[name]
            check_method(request, method)
            return handler(request)
        found = split_path(request.path)
        if found is None:
            return self._handle_rare(request)
        name, slash, key = found
        if not slash:
            return self._pipeline_or_many(request, name)
        request.route = ROUTE["one"]
        check_method(request, "GET")
        return self._answer_one(request, name, key)

    def _handle_rare(self, request: HttpRequest) -> Reply:
        if request.path.startswith(VERSIONS_PATH):
            return self._list_versions(request, request.path.removeprefix(VERSIONS_PATH))
        if self._pages is not None and request.path.startswith(REPORTS_PATH):
            return self._report(request, request.path.removeprefix(REPORTS_PATH))
        raise Problem(problems.NO_ROUTE, f"There is nothing at {quote_value(request.path)}; see /openapi.json.")

    def find_served(self, request: HttpRequest, name: str) -> VersionAnswers:
        """The served version of a pipeline that the client may read."""
        answers = self._catalog.answers.get(name)
        if answers is None and not NAME.fullmatch(name):
            detail = f"{quote_value(name)} cannot be a pipeline's name; GET /v1 lists the pipelines."
            raise Problem(problems.NO_PIPELINE, detail)
        if self._access is not None:
            self._access.check(request.headers, name)
        if answers is not None:
            if not answers.valid_from <= request.now < answers.valid_until:
                answers.refresh(request.now)
            return answers
        retry = [("retry-after", "5")]
        if name in self._catalog.failures:
            detail = f"The published version of {name} cannot be read; see the reader's log for the cause."
            raise Problem(problems.UNREADABLE, detail, headers=retry)
        if reason := self._catalog.find_reason(name):
            raise Problem(problems.NOT_READY, reason, headers=retry)
        if name in self._catalog.waiting:
            raise Problem(problems.NOT_PUBLISHED, f"{name} has no published version yet; publish one.", headers=retry)
        raise unknown_name_problem(name)

    def _answer_one(self, request: HttpRequest, name: str, key: str) -> Reply:
        answers = self.find_served(request, name)
        fields, limit = parse_query(request.query)
        answers.check_fields(fields)
        encoded = answers.encode(key)
        answers.check_age()
        body = answers.one(encoded, fields, limit)
        if body is None:
            self._metrics.cells[answers.offset + MISSES] += 1
            raise answers.not_found_problem(key)
        self._metrics.cells[answers.found_cell] += 1
        if etag_matches(request.headers.get("if-none-match"), answers.etag):
            return Reply(304, answers.headers[1:], b"")
        return Reply(200, answers.headers, body)

    def _pipeline_or_many(self, request: HttpRequest, name: str) -> Reply:
        request.route = ROUTE["many" if request.method == "POST" else "pipeline"]
        check_method(request, "GET", "POST")
        answers = self.find_served(request, name)
        if request.method == "POST":
            return self._answer_many(request, answers)
        if etag_matches(request.headers.get("if-none-match"), answers.etag):
            return Reply(304, answers.headers[1:], b"")
        return Reply(200, answers.headers, orjson.dumps(pipeline_metadata(answers)))

    def _answer_many(self, request: HttpRequest, answers: VersionAnswers) -> Reply:
        keys, fields, limit = parse_keys_request(request.body, self._settings.reader_max_keys)
        answers.check_fields(fields)
        encoded = answers.keys.encode_values(keys)
        answers.check_age()
        body, found = answers.many(encoded, fields, limit)
        cells = self._metrics.cells
        cells[answers.found_cell] += found
        cells[answers.offset + MISSES] += len(encoded) - found
        return Reply(200, answers.headers, body)

    def _list_versions(self, request: HttpRequest, name: str) -> Reply:
        request.route = ROUTE["versions"]
        check_method(request, "GET")
        self.find_served(request, name)
        return Reply(200, NO_CACHE, self._catalog.history[name])

    def _docs(self, _: HttpRequest) -> Reply:
        reply: Reply = self._pages.api(self._whole_openapi())
        return reply

    def _report(self, request: HttpRequest, name: str) -> Reply:
        request.route = ROUTE["report"]
        check_method(request, "GET")
        if not NAME.fullmatch(name):
            raise Problem(problems.NO_PIPELINE, f"{quote_value(name)} cannot be a name; GET /v1 lists what is served.")
        reply: Reply = self._pages.report(request, name)
        return reply

    def _list_pipelines(self, request: HttpRequest) -> Reply:
        token = None if self._access is None else self._access.identify(request.headers)
        rows = []
        for name, answers in sorted(self._catalog.answers.items()):
            if split_kept_name(name) is None and (token is None or token.covers(name)):
                if not answers.valid_from <= request.now < answers.valid_until:
                    answers.refresh(request.now)
                rows.append(pipeline_row(answers))
        models = [row for extension in self._extensions for row in extension.list_served()]
        covered = [row for row in models if token is None or token.covers(row["name"])]
        return Reply(200, NO_CACHE, orjson.dumps({"pipelines": rows, **({"models": covered} if covered else {})}))

    def _answer_feast(self, request: HttpRequest) -> Reply:
        assert self._feast is not None
        names, body, counts = self._feast(
            request.body, lambda name: self.find_served(request, name), max_keys=self._settings.reader_max_keys
        )
        cells = self._metrics.cells
        for answers, found, missing in counts:
            cells[answers.found_cell] += found
            cells[answers.offset + MISSES] += missing
        return Reply(200, (*NO_CACHE, ("forecache-versions", ",".join(names))), body)

    def _healthz(self, request: HttpRequest) -> Reply:
        return Reply(200, NO_STORE, b'{"status":"ok"}')

    def _readyz(self, request: HttpRequest) -> Reply:
        reason = self._readiness.not_ready_reason()
        if reason:
            raise Problem(problems.NOT_READY, reason, headers=[("retry-after", "1")])
        served = len(self._catalog.answers)
        return Reply(200, NO_STORE, orjson.dumps({"status": "ready", "pipelines": served}))

    def _render_metrics(self, request: HttpRequest) -> Reply:
        if self._access is not None:
            self._access.check(request.headers, METRICS)
        ages, limits, views = {}, {}, []
        for name, answers in sorted(self._catalog.answers.items()):
            answers.refresh(request.now)
            ages[name] = float(answers.age_s)
            limits[name] = answers.manifest.policy.max_age_h * 3600
            if answers.manifest.is_packed:
                views.append(name)

        def render_page() -> bytes:
            page = render(self._runtime, ages, build=self._build, limits=limits, views=views)
            return page + "".join(extension.prometheus_text() for extension in self._extensions).encode()

        request.render = render_page
        return Reply(200, [("content-type", CONTENT_TYPE)], b"")

    def _openapi_document(self, request: HttpRequest) -> Reply:
        return Reply(200, NO_CACHE, orjson.dumps(self._whole_openapi()))

    def _whole_openapi(self) -> dict[str, Any]:
        paths = dict(self._openapi["paths"])
        for extension in self._extensions:
            paths.update(extension.openapi_paths())
        return {**self._openapi, "paths": paths}
