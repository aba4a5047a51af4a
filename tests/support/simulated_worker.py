"""A worker of the reader in simulated time: real connections, load shedder and queue; work and sockets are simulated.

Time goes on only by the work that the worker does, so whatever else the machine does, what comes out is the same.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from forecache.kit.http import http1, load_shedding
from forecache.kit.http.call import HttpCall
from forecache.kit.http.http1 import Http1Connection, SocketWaitEstimator
from forecache.kit.http.load_shedding import LoadShedder, RouteLimit
from forecache.realtime import deadline
from forecache.realtime.answer import engine as engine_module
from forecache.realtime.answer.engine import RequestHandler
from forecache.realtime.answer.served_release import ModelRequest, ServedRelease
from forecache.realtime.deadline import CostEstimate, RequestQueue
from forecache.realtime.request.request_answer import MODEL, ParsedRequest, RequestAnswer
from forecache.serve.reader.http.app import problem_reply
from forecache.serve.reader.http.messages import Reply

US, MS, S = 1_000, 1_000_000, 1_000_000_000
READ_US, WRITE_US, PARSE_US, MODEL_US, LAST_US, VALUE_US = 3, 6, 30, 150, 40, 30
DEADLINE_MS = 50.0
_START = 1_700_000_000 * S
BEST_RATE = 1e6 / (READ_US + PARSE_US + MODEL_US + WRITE_US)
"""Requests to the model per second that take all of the worker's time."""


class SimulatedLoop:
    def __init__(self) -> None:
        self.ready: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def call_soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.ready.append((function, arguments))

    def call_later(self, *_: Any) -> None: ...


@dataclass(slots=True)
class Sent:
    """A request, times in nanoseconds since the start; `status` 0: not answered."""

    client: int
    due: int
    read_from: int = 0
    answered: int = 0
    status: int = 0
    by: bytes = b""

    @property
    def took_ms(self) -> float:
        return (self.answered - self.due) / MS


@dataclass
class SimulatedWorker:
    """`send` puts a request into the socket of a connection; `run` works until a time."""

    now: int = _START
    sent: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start, self.loop = self.now, SimulatedLoop()
        self.shedder, self.is_ending, self.waited_ns = LoadShedder(), False, 0
        loop: Any = self.loop
        self.turns, self.queue = SocketWaitEstimator(loop), RequestQueue(loop, self.shedder)
        self.shedder.limits[b"POST /v1/ranking"] = RouteLimit(self.queue, int(DEADLINE_MS * MS))
        self.connections: list[Http1Connection] = []
        self.current: list[Sent | None] = []
        self.unread: deque[tuple[int, bytes]] = deque()
        context: Any = SimpleNamespace(
            access=None, bodies=None, settings=SimpleNamespace(reader_max_body_bytes=1 << 20),
            metrics=SimpleNamespace(observe=lambda *_: None), catalog=SimpleNamespace(check_for_damage=lambda: None),
        )  # fmt: skip
        context.bodies = SimpleNamespace(check=lambda _: None)
        self.handler, self.served = RequestHandler(context, self, self.queue), _served()  # type: ignore[arg-type]

    def add_connection(self, _: Http1Connection) -> None: ...
    def remove_connection(self, _: Http1Connection) -> None: ...

    def spend(self, us: float) -> None:
        self.now += int(us * US)

    def connect(self) -> int:
        number = len(self.connections)
        loop: Any = self.loop
        connection = Http1Connection(self.handle, self, loop)
        connection.connection_made(SimpleNamespace(
            get_extra_info=lambda name: SimpleNamespace(fileno=lambda: number) if name == "socket" else None,
            is_closing=lambda: False, get_write_buffer_size=lambda: 0, pause_reading=lambda: None,
            resume_reading=lambda: None,
        ))  # fmt: skip
        self.connections.append(connection)
        self.current.append(None)
        return number

    def send(self, number: int, request: bytes, *, due: int, client: int) -> None:
        assert self.current[number] is None
        self.current[number] = Sent(client, due - self.start)
        self.unread.append((number, request))

    def iterate(self) -> bool:
        """Read every socket in the order in which data came, then do what waits; False if there was nothing to do."""
        ready, self.unread = self.unread, deque()
        for number, data in ready:
            self.spend(READ_US)
            self.connections[number].data_received(data)
        count = len(self.loop.ready)
        for _ in range(count):
            function, arguments = self.loop.ready.popleft()
            function(*arguments)
        return bool(ready or count)

    def write(self, number: int, response: bytes) -> int:
        self.spend(WRITE_US)
        sent = self.current[number]
        assert sent is not None
        self.current[number] = None
        head, _, body = response.partition(b"\r\n\r\n")
        sent.answered, sent.status, sent.by = self.now - self.start, int(head[9:12]), body
        self.sent.append(sent)
        return len(response)

    def handle(self, call: HttpCall) -> Any:
        if call.path.startswith("/v1/ranking"):
            return self.handler.handle(self.served, self, call)  # type: ignore[arg-type]
        self.spend(VALUE_US)
        call.respond(200, (), b"value")
        return None

    # The protocol and the engine of the handler.

    def check_headers(self, _: Any) -> None:
        self.spend(PARSE_US)

    def parse(self, *_: Any) -> list[ModelRequest]:
        return [ModelRequest(values={})]

    def render(self, exchange: Any) -> Reply:
        return Reply(200, (), exchange.answers[0].answered_by.encode())

    def render_error(self, problem: Any) -> Reply:
        return problem_reply(problem)

    def answer_now(self, by: Any, request: Any, clock: Any, times: Any, **_: Any) -> RequestAnswer:
        self.spend(MODEL_US)
        return RequestAnswer((), np.zeros(1), MODEL, times=times)

    def answer_by_fallback(self, by: Any, request: Any, clock: Any, times: Any, *, why: str, **_: Any) -> RequestAnswer:
        self.spend(LAST_US)
        return RequestAnswer((), np.zeros(1), "default", fallback_reason=why, times=times)


def _served() -> Any:
    stub: Any = SimpleNamespace
    return ServedRelease(
        loaded=stub(release=stub(request=(), name="ranking", deadline_ms=DEADLINE_MS)), path=stub(in_loop=True),
        parser=stub(parse_values=lambda request, candidates: ParsedRequest(1, {}, (), b"")),
        lookups=stub(is_remote=lambda: False), fallbacks=(stub(name="default", needs_request=False),), renderer=stub(),
        cells=stub(count=lambda *_, **__: None), costs=(CostEstimate(LAST_US * US),),
        model_cost=CostEstimate(100 * US), low_cost=CostEstimate(LAST_US * US),
    )  # fmt: skip


@contextmanager
def simulated_worker() -> Iterator[SimulatedWorker]:
    made: list[SimulatedWorker] = []

    def read_clock() -> int:
        return made[0].now if made else _START

    def read_seconds() -> float:
        return read_clock() / S

    with (
        mock.patch.object(http1, "perf_counter_ns", read_clock),
        mock.patch.object(deadline, "perf_counter_ns", read_clock),
        mock.patch.object(engine_module, "perf_counter_ns", read_clock),
        mock.patch.object(load_shedding, "time", read_seconds),
        mock.patch.object(http1, "os", SimpleNamespace(write=lambda number, data: made[0].write(number, data))),
    ):
        made.append(SimulatedWorker())
        yield made[0]


def model_request(due: int | None = None) -> bytes:
    stamp = b"" if due is None else b"X-Request-Start: t=%d\r\n" % (due // US)
    return b"POST /v1/ranking HTTP/1.1\r\nHost: bench\r\n%bContent-Length: 2\r\n\r\n{}" % stamp


def value_request(due: int | None = None) -> bytes:
    return b"GET /v1/churn/00042 HTTP/1.1\r\nHost: bench\r\n\r\n"


@dataclass
class Client:
    """Sends at a constant rate, whatever the worker does, over so many connections; above them requests wait."""

    worker: SimulatedWorker
    rate: float
    connections: int
    request: Callable[[int | None], bytes] = model_request
    is_stamped: bool = False
    name: int = 0

    def __post_init__(self) -> None:
        self.numbers = [self.worker.connect() for _ in range(self.connections)]
        self.waiting: deque[int] = deque()
        self.next, self.count = self.worker.now, 0

    def send_due(self) -> None:
        worker = self.worker
        while self.next <= worker.now:
            self.waiting.append(self.next)
            self.count += 1
            self.next = worker.start + int(self.count * S / self.rate)
        if not self.waiting:
            return
        for number in self.numbers:
            if worker.current[number] is None:
                due = self.waiting.popleft()
                worker.send(number, self.request(due if self.is_stamped else None), due=due, client=self.name)
                if not self.waiting:
                    return


def run(worker: SimulatedWorker, *clients: Client, seconds: float) -> list[Sent]:
    """Let clients send for so many seconds of simulated time; returns what became of their requests."""
    end = worker.now + int(seconds * S)
    while worker.now < end:
        for client in clients:
            client.send_due()
        if not worker.iterate():
            worker.now = max(worker.now, min(client.next for client in clients))
    return worker.sent
