"""Routes of the reader: each path's handler returns a reply, or raises a `Problem`."""

from collections.abc import Callable, Sequence

import orjson

from forecache.metrics.page import CONTENT_TYPE
from forecache.names import NAME
from forecache.reader.http import feast, openapi, problems
from forecache.reader.http.access import Access
from forecache.reader.http.extension import Extension
from forecache.reader.http.parsing import fields_and_limit, keys_fields_and_limit, pipeline_and_key
from forecache.reader.http.problems import Problem, quoted
from forecache.reader.http.readiness import Readiness
from forecache.reader.http.replies import NO_CACHE, NO_STORE, Reply, Request, allow, matches
from forecache.reader.processes.metrics import MISSES, ROUTE, WorkerMetrics
from forecache.reader.processes.prometheus import render
from forecache.reader.processes.shared_memory import Runtime
from forecache.reader.status.collect import Collector
from forecache.reader.status.pages import StatusPages
from forecache.reader.status.recorder import Recorder
from forecache.reader.tokens import METRICS
from forecache.reader.versions.answers import Answers
from forecache.reader.versions.catalog import Catalog
from forecache.reader.versions.describe import build_labels, metadata, pipeline_row
from forecache.reader.versions.watcher import Follow
from forecache.settings import Settings

VERSIONS_PATH = "/versions/"


class Routes:
    """The handlers of the reader's paths. They never wait, so the `VersionAnswers` in use stay open until they return.

    Attributes:
        follow: Functions that the watching thread calls after each poll.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        runtime: Runtime,
        readiness: Readiness,
        metrics: WorkerMetrics,
        access: Access | None,
        extensions: Sequence[Extension] = (),
    ) -> None:
        self._extensions = extensions
        self._settings = settings
        self._catalog = catalog
        self._runtime = runtime
        self._readiness = readiness
        self._metrics = metrics
        self._access = access
        self._build = build_labels(settings)
        self._openapi = openapi.document(settings)
        collector = Collector(
            runtime, catalog, readiness, extensions, workers=settings.reader_workers, build=self._build
        )
        status = StatusPages(collector, access)
        self.follow: tuple[Follow, ...] = (Recorder(runtime, extensions).turn, status.turn)
        self._fixed: dict[str, tuple[str, str, Callable[[Request], Reply]]] = {
            "/healthz": ("healthz", "GET", self._healthz),
            "/health": ("healthz", "GET", self._healthz),
            "/readyz": ("readyz", "GET", self._readyz),
            "/metrics": ("metrics", "GET", self._render_metrics),
            "/status": ("status", "GET", status.either),
            "/status.json": ("status", "GET", status.json),
            "/openapi.json": ("openapi", "GET", self._document),
            "/v1": ("pipelines", "GET", self._pipelines),
            "/get-online-features": ("feast", "POST", self._feast),
        }

    def takes_body(self, path: str) -> bool:
        """Return whether a POST to the path needs its body."""
        found = pipeline_and_key(path)
        return path == "/get-online-features" or (found is not None and not found[1])

    def handle(self, request: Request) -> Reply:
        """The reply to a request.

        Raises:
            Problem: The request fails with an error for the client.
            ForecacheError: The store found such an error.
        """
        fixed = self._fixed.get(request.path)
        if fixed is not None:
            name, method, handler = fixed
            request.route = ROUTE[name]
            allow(request, method)
            return handler(request)
        if request.path.startswith(VERSIONS_PATH):
            return self._versions(request, request.path.removeprefix(VERSIONS_PATH))
        found = pipeline_and_key(request.path)
        if found is None:
            raise Problem(problems.NO_ROUTE, f"There is nothing at {quoted(request.path)}; see /openapi.json.")
        name, slash, key = found
        if not slash:
            return self._pipeline_or_many(request, name)
        request.route = ROUTE["one"]
        allow(request, "GET")
        return self._one(request, name, key)

    def served(self, request: Request, name: str) -> Answers:
        """The served version of a pipeline that the client may read."""
        answers = self._catalog.answers.get(name)
        if answers is None and not NAME.fullmatch(name):
            raise Problem(
                problems.NO_PIPELINE, f"{quoted(name)} cannot be a pipeline's name; GET /v1 lists the pipelines."
            )
        if self._access is not None:
            self._access.check(request.headers, name)
        if answers is not None:
            if not answers.valid_from <= request.now < answers.valid_until:
                answers.refresh(request.now)
            return answers
        retry = [("retry-after", "5")]
        if name in self._catalog.failures:
            raise Problem(
                problems.UNREADABLE,
                f"The published version of {name} cannot be read; see the reader's log for the cause.",
                headers=retry,
            )
        if not self._catalog.warm:
            raise Problem(problems.NOT_READY, "The reader is still verifying the published versions.", headers=retry)
        if name in self._catalog.waiting:
            raise Problem(problems.NOT_PUBLISHED, f"{name} has no published version yet; publish one.", headers=retry)
        raise Problem(problems.NO_PIPELINE, f"There is no pipeline {quoted(name)}; GET /v1 lists the pipelines.")

    def _one(self, request: Request, name: str, key: str) -> Reply:
        answers = self.served(request, name)
        fields, limit = fields_and_limit(request.query)
        answers.check_fields(fields)
        encoded = answers.encode(key)
        answers.check_served()
        body = answers.one(encoded, fields, limit)
        if body is None:
            self._metrics.cells[answers.offset + MISSES] += 1
            raise answers.not_found(key)
        self._metrics.cells[answers.found_cell] += 1
        if matches(request.headers.get("if-none-match"), answers.etag):
            return Reply(304, answers.headers[1:], b"")
        return Reply(200, answers.headers, body)

    def _pipeline_or_many(self, request: Request, name: str) -> Reply:
        request.route = ROUTE["many" if request.method == "POST" else "pipeline"]
        allow(request, "GET", "POST")
        answers = self.served(request, name)
        if request.method == "POST":
            return self._many(request, answers)
        if matches(request.headers.get("if-none-match"), answers.etag):
            return Reply(304, answers.headers[1:], b"")
        return Reply(200, answers.headers, orjson.dumps(metadata(answers)))

    def _many(self, request: Request, answers: Answers) -> Reply:
        keys, fields, limit = keys_fields_and_limit(request.body, self._settings.reader_max_keys)
        answers.check_fields(fields)
        encoded = answers.keys.of_all(keys)
        answers.check_served()
        body, found = answers.many(encoded, fields, limit)
        cells = self._metrics.cells
        cells[answers.found_cell] += found
        cells[answers.offset + MISSES] += len(encoded) - found
        return Reply(200, answers.headers, body)

    def _versions(self, request: Request, name: str) -> Reply:
        request.route = ROUTE["versions"]
        allow(request, "GET")
        self.served(request, name)
        return Reply(200, NO_CACHE, self._catalog.history[name])

    def _pipelines(self, request: Request) -> Reply:
        token = None if self._access is None else self._access.identify(request.headers)
        rows = []
        for name, answers in sorted(self._catalog.answers.items()):
            if token is None or token.covers(name):
                if not answers.valid_from <= request.now < answers.valid_until:
                    answers.refresh(request.now)
                rows.append(pipeline_row(answers))
        models = [row for extension in self._extensions for row in extension.listed()]
        covered = [row for row in models if token is None or token.covers(row["name"])]
        return Reply(200, NO_CACHE, orjson.dumps({"pipelines": rows, **({"models": covered} if covered else {})}))

    def _feast(self, request: Request) -> Reply:
        names, body, counts = feast.answer(
            request.body, lambda name: self.served(request, name), max_keys=self._settings.reader_max_keys
        )
        cells = self._metrics.cells
        for answers, found, missing in counts:
            cells[answers.found_cell] += found
            cells[answers.offset + MISSES] += missing
        headers = [*NO_CACHE, ("forecache-versions", ",".join(names))]
        return Reply(200, headers, body)

    def _healthz(self, request: Request) -> Reply:
        return Reply(200, NO_STORE, b'{"status":"ok"}')

    def _readyz(self, request: Request) -> Reply:
        """Ready while every worker serves a pipeline, all are warm and undamaged, and the reader is not draining."""
        reason = self._readiness.reason()
        if reason:
            raise Problem(problems.NOT_READY, reason, headers=[("retry-after", "1")])
        served = len(self._catalog.answers)
        return Reply(200, NO_STORE, orjson.dumps({"status": "ready", "pipelines": served}))

    def _render_metrics(self, request: Request) -> Reply:
        if self._access is not None:
            self._access.check(request.headers, METRICS)
        ages, limits, views = {}, {}, []
        for name, answers in sorted(self._catalog.answers.items()):
            answers.refresh(request.now)
            ages[name] = float(answers.age_s)
            limits[name] = answers.manifest.policy.max_age_h * 3600
            if answers.manifest.is_packed:
                views.append(name)
        body = render(self._runtime, ages, build=self._build, limits=limits, views=views)
        body += "".join(extension.prometheus() for extension in self._extensions).encode()
        return Reply(200, [("content-type", CONTENT_TYPE)], body)

    def _document(self, request: Request) -> Reply:
        paths = dict(self._openapi["paths"])
        for extension in self._extensions:
            paths.update(extension.paths())
        return Reply(200, NO_CACHE, orjson.dumps({**self._openapi, "paths": paths}))
