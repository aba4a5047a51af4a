"""Requests that a worker has no time for are refused unparsed, and what it accepts is answered in time."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import perf_counter_ns

import pytest
from echo_server import CLOSE, bodies, connect, request, rest, serving
from simulated_worker import (
    BEST_RATE,
    DEADLINE_MS,
    MS,
    READ_US,
    US,
    VALUE_US,
    WRITE_US,
    Client,
    Sent,
    SimulatedWorker,
    model_request,
    run,
    simulated_worker,
    value_request,
)

from forecache.base.errors import UnavailableError
from forecache.kit.http.load_shedding import (
    BUSY_RESPONSE,
    ConnectionShare,
    LoadShedder,
    RouteLimit,
    find_stamp,
    stamp_age_ns,
)
from forecache.realtime.request.request_answer import MODEL
from forecache.serve.reader.client import Client as ReaderClient

BEST_VALUES = 1e6 / (READ_US + VALUE_US + WRITE_US)


@pytest.fixture
def worker() -> Iterator[SimulatedWorker]:
    with simulated_worker() as made:
        yield made


def late(sent: list[Sent]) -> list[Sent]:
    return [each for each in sent if each.status == 200 and each.took_ms > DEADLINE_MS]


def by_model(sent: list[Sent], client: int = 0) -> int:
    return sum(each.by == MODEL.encode() for each in sent if each.client == client)


def refused(sent: list[Sent], client: int = 0) -> int:
    return sum(each.status == 429 for each in sent if each.client == client)


@pytest.mark.parametrize("is_stamped", [False, True])
@pytest.mark.parametrize(("times", "goodput"), [(0.9, 0.89), (2, 0.8), (5, 0.7), (10, 0.5)])
def test_of_many_times_the_best_rate_what_is_accepted_is_in_time_and_every_other_refused(
    worker: SimulatedWorker, times: float, goodput: float, is_stamped: bool
) -> None:
    client = Client(worker, times * BEST_RATE, 1024, is_stamped=is_stamped)
    sent = run(worker, client, seconds=1.0)
    assert {each.status for each in sent} <= {200, 429}
    assert len(sent) > 0.95 * client.count, "a refusal costs so little that none is left unanswered"
    assert not late(sent)
    assert by_model(sent) >= goodput * BEST_RATE
    assert max(each.took_ms for each in sent) < DEADLINE_MS
    assert (refused(sent) > 0) is (times > 1)
    # The route's counter has those that were refused unparsed: nearly all.
    assert worker.shedder.num_queued >= 0.9 * refused(sent)
    assert worker.shedder.num_read == 0


def test_a_small_overload_gets_fallbacks_and_no_refusals(worker: SimulatedWorker) -> None:
    sent = run(worker, Client(worker, 1.2 * BEST_RATE, 256), seconds=1.0)
    assert not refused(sent)
    assert not late(sent)
    assert 0.8 * BEST_RATE < by_model(sent) < len(sent)


def test_requests_that_were_due_long_ago_take_no_time_from_new_ones(worker: SimulatedWorker) -> None:
    """A client with few connections sends what has waited in it too long; it says so in each request."""
    client = Client(worker, 10 * BEST_RATE, 256, is_stamped=True)
    sent = run(worker, client, seconds=1.0)
    assert not late(sent)
    assert by_model(sent) >= 0.5 * BEST_RATE


def test_connections_that_ask_seldom_are_accepted_more_often_than_those_that_ask_much(worker: SimulatedWorker) -> None:
    seldom, much = Client(worker, 0.5 * BEST_RATE, 100), Client(worker, 4 * BEST_RATE, 200, name=1)
    sent = run(worker, seldom, much, seconds=2.0)
    assert by_model(sent) / seldom.count > 1.5 * by_model(sent, 1) / much.count
    assert by_model(sent) + by_model(sent, 1) > 2 * 0.7 * BEST_RATE


def test_values_are_answered_beside_an_overloaded_model(worker: SimulatedWorker) -> None:
    model, values = Client(worker, 5 * BEST_RATE, 1024, name=1), Client(worker, 2000, 32, request=value_request)
    sent = run(worker, model, values, seconds=1.0)
    assert not late(sent)
    assert not refused(sent)
    assert sum(each.client == 0 for each in sent) > 1900


def test_of_more_values_than_can_be_read_some_are_refused_and_none_is_late(worker: SimulatedWorker) -> None:
    client = Client(worker, 2 * BEST_VALUES, 4096, request=value_request)
    sent = run(worker, client, seconds=1.0)
    assert not late(sent)
    assert worker.shedder.num_read == refused(sent) > 0.8 * BEST_VALUES
    assert len(sent) - refused(sent) > 0.6 * BEST_VALUES


@pytest.mark.parametrize("make", [model_request, value_request])
def test_a_pause_of_the_machine_is_no_overload(worker: SimulatedWorker, make: object) -> None:
    numbers = [worker.connect() for _ in range(16)]
    for _ in range(20):
        for number in numbers:
            worker.send(number, make(None), due=worker.now, client=0)  # type: ignore[operator]
        worker.iterate()
        worker.now += 1000 * MS
        while any(worker.current):
            worker.iterate()
    assert len(worker.sent) == 320
    assert not refused(worker.sent)


class FullQueue:
    is_closed = True

    def is_full(self, deadline_ns: float) -> bool:
        return self.is_closed

    def may_fall_back(self, now: int) -> bool:
        return False

    def spend_beside(self, nanoseconds: int) -> None: ...


def test_a_refused_connection_stays_open_and_its_next_request_is_answered() -> None:
    shedder, queue = LoadShedder(), FullQueue()
    shedder.limits[b"POST /a"] = RouteLimit(queue, 60_000 * MS)
    shedder.active_until = perf_counter_ns() + 3600 * 1000 * MS
    sent = request("/a", b"x")
    with serving(shedder=shedder) as (echo, port, _), connect(port) as client:
        for _ in range(3):
            client.sendall(sent)
            assert _response(client) == BUSY_RESPONSE
        client.sendall(request("/b", b"y"))
        assert bodies(_response(client)) == [b"POST /b y"]
        for other in (request("/a", b"x", chunked=True), sent + sent):
            client.sendall(other)
            assert b"POST /a x" in _response(client, other.count(b"POST"))
        queue.is_closed = False
        client.sendall(sent)
        assert bodies(_response(client)) == [b"POST /a x"]
        client.sendall(request("/a", b"x", more=CLOSE))
        assert bodies(rest(client)) == [b"POST /a x"]
        assert (shedder.num_queued, echo.seen.count("/a")) == (3, 5)


def _response(client: socket.socket, count: int = 1) -> bytes:
    found = b""
    while found.count(b"HTTP/1.1 ") < count or len(bodies(found)) < count or not _is_whole(found):
        part = client.recv(1 << 16)
        assert part
        found += part
    return found


def _is_whole(answers: bytes) -> bool:
    head, end, body = answers.rpartition(b"\r\n\r\n")
    length = int(head.lower().rpartition(b"content-length: ")[2].partition(b"\r\n")[0])
    return bool(end) and len(body) == length


def test_the_refusal_is_a_problem_that_says_when_to_ask_again() -> None:
    head, _, body = BUSY_RESPONSE.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert fields[b"retry-after"] == b"1"
    assert int(fields[b"content-length"]) == len(body)
    assert json.loads(body)["type"] == "urn:forecache:problem:busy"


HEAD = b"POST /v1/m HTTP/1.1\r\nHost: h\r\n"


@pytest.mark.parametrize(
    ("data", "is_plain"),
    [
        (HEAD + b"Content-Length: 2\r\n\r\n{}", True),
        (HEAD + b"content-length:2\r\nX: y\r\n\r\n{}", True),
        (HEAD + b"\r\n", True),
        (HEAD + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\n{}", True),
        (HEAD + b"Connection: keep-alive, upgrade\r\n\r\n", False),
        (HEAD + b"A: b\rContent-Length: 2\r\n\r\n", False),
        (HEAD + b"Content-Length: 0\r\n\r\n", True),
        (HEAD + b"Content-Length: 3\r\n\r\n{}", False),
        (HEAD + b"Content-Length: 2\r\n\r\n{}G", False),
        (HEAD + b"Content-Length: 0\r\nContent-Length: 2\r\n\r\n{}", False),
        (HEAD + b"Content-Length: 2 \r\n\r\n{}", False),
        (HEAD + b"Content-Length: +2\r\n\r\n{}", False),
        (HEAD + b"Content-Length : 2\r\n\r\n{}", False),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", False),
        (HEAD + b"TRANSFER-ENCODING : chunked\r\n\r\n", False),
        (HEAD + b"A: b\nTransfer-Encoding: chunked\r\n\r\n", False),
        (HEAD + b"A: b\n\r\n", False),
        (HEAD + b"Connection: close\r\n\r\n", False),
        (HEAD + b"Expect: 100-continue\r\n\r\n", False),
        (HEAD + b"Upgrade: websocket\r\n\r\n", False),
        (HEAD[:-2], False),
        (b"POST /v1/m HTTP/1.0\r\n\r\n", False),
        (b"POST /v1/m\r\n\r\n", False),
        (b"", False),
    ],
)
def test_only_one_whole_plain_request_is_refused_unparsed(data: bytes, is_plain: bool) -> None:
    assert find_stamp(data) == (b"" if is_plain else None)


def read_age(data: bytes, otherwise: int) -> int:
    stamp = find_stamp(data)
    assert stamp is not None
    return stamp_age_ns(stamp.decode(), otherwise)


def test_the_age_of_a_request_is_what_its_balancer_says(worker: SimulatedWorker) -> None:
    now = worker.now
    assert read_age(model_request(now - 30 * MS), 7) == pytest.approx(30 * MS, abs=US)
    for stamp in (b"t=%d" % ((now + MS) // US), b"nan", b"inf", b"1e9", b"t="):
        head = HEAD + b"x-request-start: %b\r\n\r\n" % stamp
        assert read_age(head, 7) == 7
    # Of several times, the first counts, as for a request that is parsed.
    twice = b"".join(b"x-request-start: t=%d\r\n" % ((now - ago * MS) // US) for ago in (30, 0))
    assert read_age(HEAD + twice + b"\r\n", 7) == pytest.approx(30 * MS, abs=US)


def test_a_request_of_the_client_for_python_is_refused_unparsed() -> None:
    """Else what it sends under overload would be parsed, and not be held to its part."""
    sent = list[bytes]()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: sent.append(_first_request(server)))
        thread.start()
        with (
            ReaderClient(f"http://127.0.0.1:{server.getsockname()[1]}", retries=0) as client,
            suppress(UnavailableError),
        ):
            client.ask("m", {"user": 1})
        thread.join()
    assert find_stamp(sent[0]) == b""


def _first_request(server: socket.socket) -> bytes:
    connection, _ = server.accept()
    with connection:
        data = b""
        while not data.partition(b"\r\n\r\n")[2]:
            data += connection.recv(1 << 16)
        connection.sendall(BUSY_RESPONSE)
    return data


class OpenQueue(FullQueue):
    def __init__(self) -> None:
        self.asked_ns = set[float]()

    def is_full(self, deadline_ns: float) -> bool:
        self.asked_ns.add(deadline_ns)
        return False


def test_the_first_part_of_a_connection_after_a_long_quiet_time_is_not_of_that_time() -> None:
    shedder, share, queue = LoadShedder(), ConnectionShare(), OpenQueue()
    shedder.limits[b"POST /v1/m"] = RouteLimit(queue, 50 * MS)
    now = 3600 * 1000 * MS
    for began in (now, 2 * now):
        for millisecond in range(300):
            at = began + millisecond * MS
            assert shedder.judge(HEAD + b"\r\n", at, share, waited_ns=0, is_behind=False) == "accept"
        # It asks alone, so it is held to its part only if that is of the wrong time.
    assert queue.asked_ns == {50 * MS}
