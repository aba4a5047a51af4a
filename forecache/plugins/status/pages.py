"""The handlers of `/status` and `/status.json`: access, content negotiation, and a cache of a second for all viewers.

While somebody views the status, the watching thread renders it, so that the event loop only sends it.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson

from forecache.plugins.status.collect import Attention, Collector, Recorder, StatusPart
from forecache.plugins.status.history import History, ModelCounts
from forecache.plugins.status.page.api import render_api
from forecache.plugins.status.page.document import HEADERS, REPORT_HEADERS, icon
from forecache.plugins.status.page.render import render_page
from forecache.plugins.status.report_pages import ReportPages
from forecache.realtime.serve import RealtimeExtension
from forecache.serve.reader.http.access import Access
from forecache.serve.reader.http.extension import Extension, ExtensionContext
from forecache.serve.reader.http.messages import NO_STORE, HttpRequest, Reply
from forecache.serve.reader.http.readiness import Readiness
from forecache.serve.reader.tokens import METRICS
from forecache.serve.reader.versions.describe import build_labels
from forecache.serve.reader.versions.follow import Follow, RunOnLoop

_EVERY_S = 1.0
_LONGEST_S = 2.0
"""A cached page that is older, as after a time without viewers, is rendered again before it is sent."""
_VIEWED_S = 10.0
_JSON, _HTML = "application/json", "text/html"
_ADDRESSES = {
    "pipelines": "/v1", "status": "/status", "docs": "/docs", "openapi": "/openapi.json", "metrics": "/metrics",
}  # fmt: skip


class _CachedPage(NamedTuple):
    at: float
    body: bytes


_NEVER = _CachedPage(float("-inf"), b"")


class StatusPages:
    """The handlers of one worker; `follow` are functions that its watching thread calls after each poll."""

    def __init__(self, collector: Collector, access: Access | None, *follow: Follow) -> None:
        self._collector, self._access = collector, access
        self.follow = (*follow, self.refresh_viewed)
        self._made = {_JSON: _NEVER, _HTML: _NEVER}
        self._asked_at = {_JSON: float("-inf"), _HTML: float("-inf")}
        self._reports = ReportPages()

    def root(self, request: HttpRequest) -> Reply:
        """A browser is led to the status page; any other client gets the addresses that there are."""
        if _HTML in (request.headers.get("accept") or "").lower():
            return Reply(303, [("location", "status"), ("vary", "accept"), ("cache-control", "no-store")], b"")
        return Reply(200, NO_STORE, orjson.dumps(_ADDRESSES))

    def favicon(self, _: HttpRequest) -> Reply:
        kept = [("content-type", "image/svg+xml"), ("cache-control", "max-age=86400")]
        return Reply(200, kept, icon("well").encode())

    def api(self, document: Mapping[str, Any]) -> Reply:
        """The page on the HTTP interface that an OpenAPI document describes."""
        return Reply(200, HEADERS, render_api(document))

    def report(self, request: HttpRequest, name: str) -> Reply:
        """The page on one name, or the report of a version of its model, made in another thread; for the answer of a
        key, the token covers the name, too."""
        asked = dict(parse_qsl(request.query))
        key, version = asked.get("key", ""), asked.get("report", "")
        if self._access is not None:
            for scope in (METRICS, *((name,) if key else ())):
                self._access.check(request.headers, scope, basic=True)
        if version.isascii() and version.isdigit():
            request.render = lambda: self._reports.page(name, version=int(version))
            return Reply(200, REPORT_HEADERS, b"")
        request.render = lambda: self._reports.page(name, key=key)
        return Reply(200, HEADERS, b"")

    def html_or_json(self, request: HttpRequest) -> Reply:
        """The page; JSON if the client accepts that and not HTML."""
        accept = (request.headers.get("accept") or "").lower()
        return self.json(request) if _JSON in accept and _HTML not in accept else self.html(request)

    def html(self, request: HttpRequest) -> Reply:
        return Reply(200, HEADERS, self._page_body(request, _HTML))

    def json(self, request: HttpRequest) -> Reply:
        return Reply(200, [*NO_STORE, ("vary", "accept, authorization")], self._page_body(request, _JSON))

    def refresh_viewed(self, _: RunOnLoop) -> None:
        """Render again the forms that have been viewed lately; called in the watching thread."""
        now = time.time()
        for form, asked_at in self._asked_at.items():
            if abs(now - asked_at) < _VIEWED_S and abs(now - self._made[form].at) >= _EVERY_S:
                self._render(form, now)

    def _page_body(self, request: HttpRequest, form: str) -> bytes:
        if self._access is not None:
            self._access.check(request.headers, METRICS, basic=True)
        self._asked_at[form] = request.now
        made = self._made[form]
        return made.body if abs(request.now - made.at) < _LONGEST_S else self._render(form, request.now)

    def _render(self, form: str, now: float) -> bytes:
        document = self._collector.document(now)
        body = render_page(document) if form == _HTML else orjson.dumps(document)
        self._made[form] = _CachedPage(now, body)
        return body


class _ModelsPart(StatusPart):
    """The real-time models of the reader; numpy is imported once there is one."""

    def __init__(self, extension: RealtimeExtension, context: ExtensionContext) -> None:
        self._extension, self._runtime, self._settings = extension, context.runtime, context.settings

    def model_counts(self) -> Mapping[str, ModelCounts]:
        if self._extension.models is None:
            return {}
        from forecache.plugins.status.model_rows import request_counts_of

        return request_counts_of(self._runtime)

    def status(self, history: History) -> tuple[dict[str, Any], list[Attention]]:
        if self._extension.models is None:
            if not self._extension.failure:
                return {}, []
            what = "Real-time models are not served: a package that they need is missing."
            return {}, [Attention("critical", what, "Install forecache[realtime] and restart the reader.")]
        from forecache.plugins.status.model_rows import status_part

        return status_part(self._extension.models, self._runtime, history, self._settings)


def make_status_pages(context: ExtensionContext, readiness: Readiness, extensions: Sequence[Extension]) -> StatusPages:
    settings, runtime = context.settings, context.runtime
    parts = [
        _ModelsPart(each, context) if isinstance(each, RealtimeExtension) else each
        for each in extensions
        if isinstance(each, (RealtimeExtension, StatusPart))
    ]
    build = {**build_labels(settings), "environment": settings.environment}
    collector = Collector(
        runtime,
        context.catalog,
        readiness,
        parts,
        workers=settings.reader_workers,
        build=build,
    )
    return StatusPages(collector, context.access, Recorder(runtime, parts).record_sample)
