"""The reader as an RSGI application: one per worker process, created before the worker accepts connections."""

import asyncio
import gzip
import logging
import re
import sys
from collections.abc import Awaitable, Generator, Sequence
from time import monotonic, perf_counter_ns, time
from typing import Any

from forecache.errors import ForecacheError, InputError
from forecache.reader.http import problems
from forecache.reader.http.access import Access
from forecache.reader.http.extension import Context, MakeExtension
from forecache.reader.http.limits import MAX_PATH_BYTES, BodyMemory, ClientGone, read_body
from forecache.reader.http.parsing import pipeline_and_key, plain_limit
from forecache.reader.http.problems import Problem, quoted
from forecache.reader.http.readiness import Readiness
from forecache.reader.http.replies import Reply, Request
from forecache.reader.http.routes import Routes
from forecache.reader.processes import reaper
from forecache.reader.processes.in_flight import InFlight
from forecache.reader.processes.metrics import ROUTE, WorkerMetrics
from forecache.reader.processes.shared_memory import Runtime
from forecache.reader.versions.catalog import Catalog
from forecache.reader.versions.watcher import RunOnLoop
from forecache.settings import Settings

logger = logging.getLogger("forecache.reader")
GZIP_FROM_BYTES = 1024
GZIP_IN_THREAD_FROM_BYTES = 32 * 1024
REAP_EVERY_S = 1.0
SILENCE_TIMEOUTS = 1.5
"""A silent connection is closed after this many request timeouts; HTTP/2 clients answer pings sooner than that."""
_ONE = ROUTE["one"]
_JSON_TYPE = re.compile(r"application/([!-~]+\+)?json")


class _Done:
    """The awaitable that the handler of an answered request returns; awaiting it costs nothing."""

    def __await__(self) -> Generator[None, None, None]:
        return _NOTHING


_NOTHING: Generator[None, None, None] = iter(())  # type: ignore[assignment]  # exhausted, so it may be shared
DONE = _Done()
"""What a handler returns that has answered."""


class ReaderApp:
    """Answers requests. Granian calls `__rsgi_init__` once, then `__rsgi__` for each request, on one loop."""

    def __init__(self, settings: Settings, runtime: Runtime, extensions: Sequence[MakeExtension] = ()) -> None:
        self.settings = settings
        self._runtime = runtime
        self._metrics = WorkerMetrics.claimed(runtime)
        self._access = Access(settings.reader_tokens) if settings.reader_tokens else None
        self._bodies = BodyMemory(max(settings.reader_max_body_bytes, settings.reader_max_bodies_bytes))
        self.catalog = Catalog(settings, self._metrics)
        self._answers = self.catalog.answers
        self._guarded = self._access is not None
        context = Context(settings, self.catalog, self._metrics, self._access, self._bodies, runtime)
        self._extensions = tuple(make(context) for make in extensions)
        self.readiness = Readiness(
            runtime, self._metrics, self.catalog, self._extensions, workers=settings.reader_workers
        )
        self.routes = Routes(
            settings, self.catalog, runtime, self.readiness, self._metrics, self._access, self._extensions
        )
        self._in_flight = InFlight(self._metrics)
        self._reap_at = 0.0

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # With the default of 5 ms other threads would delay requests and raise tail latencies.
        sys.setswitchinterval(0.001)
        self.catalog.open()
        for extension in self._extensions:
            extension.open(loop)
        own = [self._note_readiness, self._in_flight.turn, *self.routes.follow]
        follow = [*(each.turn for each in self._extensions), *own]
        self.catalog.watch(loop, each_turn=self._each_turn, after_turn=follow)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        for extension in self._extensions:
            extension.close()
        self.catalog.close()

    def __rsgi__(self, scope: Any, proto: Any) -> Awaitable[None]:
        started = perf_counter_ns()
        method, path = scope.method, scope.path
        if method == "GET" and not self._guarded and (found := pipeline_and_key(path)):
            name, _, key = found
            answers = self._answers.get(name)
            if answers is not None and key and self._answer_one(scope, proto, answers, key):
                self._metrics.observe(_ONE, 200, perf_counter_ns() - started)
                return DONE
        for extension in self._extensions:
            handler = extension.find(method, path)
            if handler is not None:
                return handler(scope, proto, started)
        if method == "POST" and self.routes.takes_body(path):
            return self._post(scope, path, proto, started)
        request = Request(method, path, scope.query_string, scope.headers, time())
        try:
            _check_path(request)
        except Problem as problem:
            reply = problem_reply(problem)
        else:
            reply = self._reply(request)
        if len(reply.body) >= GZIP_FROM_BYTES and _accepts_gzip(request.headers):
            reply = _gzipped(reply)
        self._send(proto, request, reply, started)
        return DONE

    def _answer_one(self, scope: Any, proto: Any, answers: Any, key: str) -> bool:
        """Answer a plain request for one key, at most with a limit; False if the request is another one or fails."""
        now = time()
        if now >= answers.valid_until:
            answers.refresh(now)
        query, limit = scope.query_string, 0
        if query:
            limit = plain_limit(query)
            if not limit:
                return False
        if answers.refused or "if-none-match" in scope.headers:
            return False
        try:
            body = answers.one(answers.encode(key), (), limit)
        except Exception:  # noqa: BLE001  # the other way to the same answer says what is wrong
            return False
        if body is None:
            return False
        proto.response_bytes(200, answers.headers, body)
        self._metrics.cells[answers.found_cell] += 1
        return True

    async def _post(self, scope: Any, path: str, proto: Any, started: int) -> None:
        headers = scope.headers
        request = Request("POST", path, scope.query_string, headers, 0.0)
        settings = self.settings
        try:
            _check_path(request)
            if self._access is not None:
                self._access.identify(headers)  # clients without a token must not send a body
            check_media_type(headers.get("content-type"))
            request.body = await read_body(
                proto, headers, self._bodies,
                limit_bytes=settings.reader_max_body_bytes, timeout_s=settings.reader_request_timeout_s,
            )  # fmt: skip
        except ClientGone:
            self._metrics.observe(request.route, problems.CLIENT_GONE, perf_counter_ns() - started)
            return
        except Problem as problem:
            if problem.kind is problems.OVERLOADED:
                self._metrics.count_refused_body()
            reply = problem_reply(problem)
        else:
            request.now = time()
            reply = self._reply(request)
        size = len(reply.body)
        if size >= GZIP_FROM_BYTES and _accepts_gzip(headers):
            if size < GZIP_IN_THREAD_FROM_BYTES:
                reply = _gzipped(reply)
            else:
                reply = await asyncio.get_running_loop().run_in_executor(None, _gzipped, reply)
        self._send(proto, request, reply, started)

    def _reply(self, request: Request) -> Reply:
        try:
            return self.routes.handle(request)
        except Problem as problem:
            return problem_reply(problem)
        except InputError as error:
            return problem_reply(Problem(problems.BAD_KEY, str(error)))
        except ForecacheError as error:
            kind = problems.UNREADABLE if error.status == 503 else problems.INTERNAL
            logger.error("%s %s failed: %s", request.method, quoted(request.path), error)
            return problem_reply(Problem(kind, "See the reader's log for the cause."))
        except Exception:
            logger.exception("%s %s failed.", request.method, quoted(request.path))
            self.catalog.suspect()
            return problem_reply(Problem(problems.INTERNAL, "This is a defect; see the reader's log for the cause."))

    def _send(self, proto: Any, request: Request, reply: Reply, started: int) -> None:
        if reply.body:
            proto.response_bytes(reply.status, reply.headers, reply.body)
        else:
            proto.response_empty(reply.status, reply.headers)
        self._metrics.observe(request.route, reply.status, perf_counter_ns() - started)

    def _note_readiness(self, _: RunOnLoop) -> None:
        self.readiness.note()

    def _each_turn(self) -> None:
        """Housekeeping that the watching thread does a few times a second."""
        if self._access is not None and not self._access.reload():
            self._metrics.count_token_error()
        now = monotonic()
        if reaper.SUPPORTED and now >= self._reap_at:
            silence_s = self.settings.reader_request_timeout_s * SILENCE_TIMEOUTS
            staying, closed = reaper.close_silent(
                self.settings.reader_port, after_s=silence_s, most=self.settings.reader_max_connections
            )
            self._metrics.count_connections(staying, closed)
            under_pressure = staying + closed > self.settings.reader_max_connections * reaper.PRESSURE_SHARE
            self._reap_at = now + (0.0 if under_pressure else REAP_EVERY_S)


def _check_path(request: Request) -> None:
    if len(request.path) > MAX_PATH_BYTES or len(request.query) > MAX_PATH_BYTES:
        raise Problem(problems.LONG_PATH, f"The path or query has more than {MAX_PATH_BYTES} characters.")


def problem_reply(problem: Problem) -> Reply:
    return Reply(problem.kind.status, problem.header_list(), problem.body())


def check_media_type(content_type: str | None) -> None:
    """Accept JSON, and requests without a media type."""
    if content_type is None or content_type == "application/json":
        return
    if not _JSON_TYPE.fullmatch(content_type.partition(";")[0].strip().lower()):
        raise Problem(
            problems.MEDIA_TYPE,
            f"The body has the media type {quoted(content_type)}; send application/json.",
            headers=[("accept", "application/json")],
        )


def _accepts_gzip(headers: Any) -> bool:
    """Whether Accept-Encoding lists gzip (or `*`) without refusing it by `q=0`."""
    header = headers.get("accept-encoding")
    if header is None:
        return False
    for part in header.lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() in ("gzip", "*"):
            quality = parameters.replace(" ", "").removeprefix("q=")
            return quality.strip("0.") != "" or quality == ""
    return False


def _gzipped(reply: Reply) -> Reply:
    body = gzip.compress(reply.body, compresslevel=1, mtime=0)
    headers = [*reply.headers, ("content-encoding", "gzip"), ("vary", "accept-encoding")]
    return Reply(reply.status, headers, body)
