"""The application of a reader worker: answers each request, by its extensions or its routes."""

import asyncio
import gzip
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic, perf_counter_ns, time
from typing import Any

from forecache.base.errors import ForecacheError, InputError
from forecache.base.settings import Settings
from forecache.kit.http import problems
from forecache.kit.http.call import MAX_PATH_BYTES, BodyMemory, ClientGone, HttpCall
from forecache.kit.http.connections import Connections
from forecache.kit.http.load_shedding import LoadShedder
from forecache.kit.http.problems import Problem, quote_value
from forecache.kit.process.child import shorten_waits
from forecache.serve.reader import worker_metrics as cell
from forecache.serve.reader.http.access import Access
from forecache.serve.reader.http.extension import ExtensionContext, MakeExtension
from forecache.serve.reader.http.messages import HttpRequest, Reply, check_json_body, parse_plain_limit, split_path
from forecache.serve.reader.http.readiness import Readiness
from forecache.serve.reader.http.routes import Routes
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.versions.catalog import Catalog
from forecache.serve.reader.versions.follow import RunOnLoop
from forecache.serve.reader.versions.partial_versions import LONGEST_S, EntriesMissingError, PartialVersion
from forecache.serve.reader.worker_metrics import ROUTE, InFlightTime, WorkerMetrics

logger = logging.getLogger("forecache.reader")
GZIP_FROM_BYTES = 1024
GZIP_IN_THREAD_FROM_BYTES = 32 * 1024
_ONE, _REALTIME = ROUTE["one"], ROUTE["realtime"]
_MISSING = Reply(0, (), b"")  # with what `HttpRequest.missing` says


class ReaderApp:
    """Answers requests on one event loop, between `open` and `close`."""

    def __init__(
        self, settings: Settings, runtime: ReaderSharedMemory, extensions: Sequence[MakeExtension] = ()
    ) -> None:
        self.settings = settings
        self._runtime = runtime
        self._metrics = WorkerMetrics.claim(runtime)
        self._access = Access(settings.reader_tokens) if settings.reader_tokens else None
        self._bodies = BodyMemory(max(settings.reader_max_body_bytes, settings.reader_max_bodies_bytes))
        self.catalog = Catalog(settings, self._metrics)
        self._answers = self.catalog.answers
        self._guarded = self._access is not None
        self.shedder = LoadShedder()
        context = ExtensionContext(
            settings, self.catalog, self._metrics, self._access, self._bodies, runtime, self.shedder
        )
        self._extensions = tuple(make(context) for make in extensions)
        self.readiness = Readiness(context, self._extensions)
        self.routes = Routes(context, self.readiness, self._extensions)
        self.connections: Connections | None = None
        self._closed = 0
        self._in_flight = InFlightTime(
            self._metrics, lambda: 0 if self.connections is None else self.connections.waited_ns
        )

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the served versions and the extensions, on the loop's thread."""
        shorten_waits()
        self.catalog.open()
        for extension in self._extensions:
            extension.open(loop)
        polls = [each.poll_changes for each in self._extensions]
        self.catalog.watch(loop, self._do_housekeeping, [*polls, self._note_state, *self.routes.follow])

    def close(self) -> None:
        for extension in self._extensions:
            extension.close()
        self.catalog.close()

    def handle(self, call: HttpCall) -> Awaitable[None] | None:
        """Answer a call, or return an awaitable that does."""
        method, path = call.method, call.path
        if method == "GET" and not self._guarded and (found := split_path(path)):
            name, _, key = found
            answers = self._answers.get(name)
            if answers is not None and key and self._answer_one(call, answers, key):
                self._metrics.observe(_ONE, 200, perf_counter_ns() - call.arrived)
                return None
        for extension in self._extensions:
            handler = extension.find_handler(method, path)
            if handler is not None:
                return handler(call)
        if method == "POST" and self.routes.takes_body(path):
            return self._handle_post(call)
        request = HttpRequest(method, path, call.query_string, call.headers, time())
        try:
            _check_path(request)
        except Problem as problem:
            reply = problem_reply(problem)
        else:
            reply = self._make_reply(request, self.routes.handle)
            if request.missing is not None:
                return self._fetch_and_send(call, request, request.missing)
            if request.render is not None:
                return self._render_and_send(call, request, reply)
        self._send(call, request, _compress_if_accepted(request, reply))
        return None

    async def _render_and_send(self, call: HttpCall, request: HttpRequest, reply: Reply) -> None:
        """Render a long page in another thread: 5,000 samples take 30 ms, during which the loop would stand still."""

        def render(request: HttpRequest) -> Reply:
            assert request.render is not None
            return _compress_if_accepted(request, reply._replace(body=request.render()))

        loop = asyncio.get_running_loop()
        self._send(call, request, await loop.run_in_executor(None, self._make_reply, request, render))

    async def _fetch_and_send(self, call: HttpCall, request: HttpRequest, missing: EntriesMissingError) -> None:
        """Fetch entries from the remote, and handle the request again with them, until none is missing."""
        fetched: dict[PartialVersion, dict[bytes, bytes | None]] = {}
        until, reply = monotonic() + LONGEST_S, _MISSING
        while reply is _MISSING:
            problem: Exception | None = None
            try:
                found = await self.catalog.partial.fetch(missing, until - monotonic())
                fetched.setdefault(missing.version, {}).update(found)
            except (Problem, ForecacheError) as error:
                problem = error
            reply = self._make_reply(request, partial(self._handle_with, fetched, problem))
            missing = request.missing or missing
        self._send(call, request, _compress_if_accepted(request, reply))

    def _handle_with(
        self,
        fetched: dict[PartialVersion, dict[bytes, bytes | None]],
        problem: Exception | None,
        request: HttpRequest,
    ) -> Reply:
        if problem is not None:
            raise problem
        for version, entries in fetched.items():
            version.fetched = entries
        try:
            return self.routes.handle(request)
        finally:
            for version in fetched:
                version.fetched = {}

    def _answer_one(self, call: HttpCall, answers: Any, key: str) -> bool:
        """Answer a plain request for one key, at most with a limit; return False if it is another request or fails."""
        now = time()
        if not answers.valid_from <= now < answers.valid_until:
            answers.refresh(now)
        query, limit = call.query_string, 0
        if query:
            limit = parse_plain_limit(query)
            if not limit:
                return False
        if answers.refused or "if-none-match" in call.headers:
            return False
        try:
            body = answers.one(answers.encode(key), (), limit)
        except Exception:  # noqa: BLE001  # the slower path to the same answer reports the error
            return False
        if body is None:
            return False
        call.respond(200, answers.headers, body)
        self._metrics.cells[answers.found_cell] += 1
        return True

    def _handle_post(self, call: HttpCall) -> Awaitable[None] | None:
        request = HttpRequest("POST", call.path, call.query_string, call.headers, 0.0)
        settings = self.settings
        try:
            _check_path(request)
            if self._access is not None:
                self._access.identify(call.headers)  # clients without a token must not send a body
            check_json_body(call.headers)
            body = call.whole_body(settings.reader_max_body_bytes, self._bodies)
        except Problem as problem:
            self._refuse(call, request, problem)
            return None
        if body is None:
            return self._read_and_answer(call, request)
        return self._answer_body(call, request, body)

    async def _read_and_answer(self, call: HttpCall, request: HttpRequest) -> None:
        settings = self.settings
        try:
            body = await call.read_body(settings.reader_max_body_bytes, self._bodies, settings.reader_request_timeout_s)
        except ClientGone:
            self._metrics.observe(request.route, problems.CLIENT_GONE, perf_counter_ns() - call.arrived)
            return
        except Problem as problem:
            self._refuse(call, request, problem)
            return
        later = self._answer_body(call, request, body)
        if later is not None:
            await later

    def _answer_body(self, call: HttpCall, request: HttpRequest, body: bytes) -> Awaitable[None] | None:
        request.body, request.now = body, time()
        reply = self._make_reply(request, self.routes.handle)
        if request.missing is not None:
            return self._fetch_and_send(call, request, request.missing)
        size = len(reply.body)
        if size >= GZIP_FROM_BYTES and _accepts_gzip(call.headers):
            if size >= GZIP_IN_THREAD_FROM_BYTES:
                return self._send_gzipped(call, request, reply)
            reply = _compress_reply(reply)
        self._send(call, request, reply)
        return None

    async def _send_gzipped(self, call: HttpCall, request: HttpRequest, reply: Reply) -> None:
        self._send(call, request, await asyncio.get_running_loop().run_in_executor(None, _compress_reply, reply))

    def _refuse(self, call: HttpCall, request: HttpRequest, problem: Problem) -> None:
        if problem.kind is problems.OVERLOADED:
            self._metrics.count_refused_body()
        self._send(call, request, problem_reply(problem))

    def _make_reply(self, request: HttpRequest, handler: Callable[[HttpRequest], Reply]) -> Reply:
        try:
            return handler(request)
        except Problem as problem:
            return problem_reply(problem)
        except InputError as error:
            return problem_reply(Problem(problems.BAD_KEY, str(error)))
        except EntriesMissingError as error:
            request.missing = error
            return _MISSING
        except ForecacheError as error:
            kind = problems.UNREADABLE if error.status == 503 else problems.INTERNAL
            logger.error("%s %s failed: %s", request.method, quote_value(request.path), error)
            return problem_reply(Problem(kind, "See the reader's log for the cause."))
        except Exception:
            logger.exception("%s %s failed.", request.method, quote_value(request.path))
            self.catalog.check_for_damage()
            return problem_reply(Problem(problems.INTERNAL, "This is a defect; see the reader's log for the cause."))

    def _send(self, call: HttpCall, request: HttpRequest, reply: Reply) -> None:
        call.respond(reply.status, reply.headers, reply.body)
        self._metrics.observe(request.route, reply.status, perf_counter_ns() - call.arrived)

    def _note_state(self, run_on_loop: RunOnLoop) -> None:
        self.readiness.note_state()
        if self.shedder.num_read or self.shedder.num_queued:
            run_on_loop(self._count_refused)
        self._in_flight.count_elapsed()

    def _count_refused(self) -> None:
        shedder = self.shedder
        self._metrics.count_refused(_ONE, shedder.num_read)
        self._metrics.count_refused(_REALTIME, shedder.num_queued)
        shedder.num_read = shedder.num_queued = 0

    def _do_housekeeping(self) -> None:
        """Reload tokens and count connections; the watching thread calls it a few times a second."""
        if self._access is not None and not self._access.reload():
            self._metrics.cells[cell.TOKEN_ERRORS] += 1
        if self.connections is not None:
            if self._runtime.is_draining:
                self.connections.is_ending = True
            cells, closed = self._metrics.cells, self.connections.num_closed
            cells[cell.CONNECTIONS] = self.connections.num_open
            cells[cell.CLOSED_EARLY] += closed - self._closed
            self._closed = closed


def _check_path(request: HttpRequest) -> None:
    if len(request.path) > MAX_PATH_BYTES or len(request.query) > MAX_PATH_BYTES:
        raise Problem(problems.LONG_PATH, f"The path or query has more than {MAX_PATH_BYTES} characters.")


def problem_reply(problem: Problem) -> Reply:
    return Reply(problem.kind.status, problem.header_list(), problem.body())


def _accepts_gzip(headers: Any) -> bool:
    """Return whether Accept-Encoding lists gzip (or `*`) without refusing it by `q=0`."""
    header = headers.get("accept-encoding")
    if header is None:
        return False
    for part in header.lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() in ("gzip", "*"):
            quality = parameters.replace(" ", "").removeprefix("q=")
            return quality.strip("0.") != "" or quality == ""
    return False


def _compress_if_accepted(request: HttpRequest, reply: Reply) -> Reply:
    is_long = len(reply.body) >= GZIP_FROM_BYTES
    return _compress_reply(reply) if is_long and _accepts_gzip(request.headers) else reply


def _compress_reply(reply: Reply) -> Reply:
    body = gzip.compress(reply.body, compresslevel=1, mtime=0)
    headers = [*reply.headers, ("content-encoding", "gzip"), ("vary", "accept-encoding")]
    return Reply(reply.status, headers, body)
