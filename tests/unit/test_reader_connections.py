"""Requests on real sockets: read in whatever pieces they come, answered in their order, refused where they are none."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from forecache.reader.connections.call import Call, ClientGone
from forecache.reader.connections.connections import Connections
from forecache.reader.connections.turns import Turns
from forecache.reader.http.limits import BodyMemory
from forecache.reader.http.problems import Problem

LIMIT = 100_000


class Echo:
    """Answers each call with its method, path and body; what a path says happens first."""

    def __init__(self) -> None:
        self.memory = BodyMemory(1 << 20)
        self.seen: list[str] = []

    def __call__(self, call: Call) -> Awaitable[None] | None:
        self.seen.append(call.path)
        if call.path.startswith("/fail"):
            raise ValueError("as asked")
        if call.path.startswith("/unread"):
            call.respond(401, [("x", "y")], b"no")
            return None
        if call.path.startswith("/later"):
            return self.later(call)
        try:
            body = call.whole_body(LIMIT, self.memory)
        except Problem as problem:
            call.respond(problem.kind.status, problem.header_list(), problem.body())
            return None
        if body is None:
            return self.read(call)
        self.answer(call, body)
        return None

    async def later(self, call: Call) -> None:
        await asyncio.sleep(0.002)
        await self.read(call)

    async def read(self, call: Call) -> None:
        try:
            self.answer(call, await call.read_body(LIMIT, self.memory, 1.0))
        except ClientGone:
            self.seen.append("gone")
        except Problem as problem:
            call.respond(problem.kind.status, problem.header_list(), problem.body())

    def answer(self, call: Call, body: bytes) -> None:
        large = b"#" * 3_000_000 if call.path == "/large" else b""
        call.respond(200, (("x", "y"),), f"{call.method} {call.path} ".encode() + body + large)


@contextmanager
def serving(**limits: Any) -> Iterator[tuple[Echo, int, Connections]]:
    """A loop in a thread that answers; the port."""
    echo, listener = Echo(), socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port, loop, made = listener.getsockname()[1], uvloop.new_event_loop(), []
    ready = threading.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        made.append(Connections(loop, listener, echo, **{"most": 1000, "timeout_s": 1.0, **limits}))
        loop.call_soon(made[0].start)
        loop.call_soon(ready.set)
        loop.run_until_complete(stopped(made[0]))

    stop = asyncio.Event()

    async def stopped(connections: Connections) -> None:
        await stop.wait()
        await connections.finish()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield echo, port, made[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()
        assert echo.memory.free_bytes == 1 << 20, "all memory of bodies was given back"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as (_, port, _):
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def told(port: int, *parts: bytes) -> bytes:
    """What comes back until the other side closes."""
    with connect(port) as client:
        for part in parts:
            client.sendall(part)
        return rest(client)


def rest(client: socket.socket) -> bytes:
    answer = b""
    while part := client.recv(1 << 16):
        answer += part
    return answer


def bodies(answers: bytes) -> list[bytes]:
    """The bodies of responses."""
    found = []
    while answers:
        head, _, answers = answers.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append(answers[:length])
        answers = answers[length:]
    return found


def request(path: str, body: bytes | None, *, chunked: bool = False, more: bytes = b"") -> bytes:
    if body is None:
        return b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path.encode(), more)
    if not chunked:
        return b"POST %b HTTP/1.1\r\nContent-Length: %d\r\n%b\r\n%b" % (path.encode(), len(body), more, body)
    halves = [part for part in (body[: len(body) // 2], body[len(body) // 2 :]) if part]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in halves)
    return b"POST %b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n%b\r\n%b0\r\n\r\n" % (path.encode(), more, chunks)


CLOSE = b"Connection: close\r\n"
ASKED = st.lists(
    st.tuples(st.sampled_from(["/a", "/later", "/b%20c"]), st.none() | st.binary(max_size=40), st.booleans()),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(asked=ASKED, cuts=st.lists(st.integers(1, 400), max_size=5))
def test_requests_in_any_pieces_are_answered_in_their_order(
    port: int, asked: list[tuple[str, bytes | None, bool]], cuts: list[int]
) -> None:
    wanted, sent = [], b""
    for place, (path, body, chunked) in enumerate(asked):
        last = place == len(asked) - 1
        sent += request(path, body, chunked=chunked, more=CLOSE if last else b"")
        wanted.append(
            b"%b %b %b" % (b"GET" if body is None else b"POST", path.replace("%20", " ").encode(), body or b"")
        )
    edges = [0, *sorted({min(cut, len(sent)) for cut in cuts}), len(sent)]
    assert bodies(told(port, *(sent[start:end] for start, end in zip(edges, edges[1:], strict=False)))) == wanted


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"junk\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked, x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 17_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 40_000, 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(port: int, sent: bytes, status: int) -> None:
    answer = told(port, sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b'"status":%d' % status in answer
    assert b"connection: close" in answer


def test_a_request_behind_one_that_is_refused_is_not_answered(port: int) -> None:
    answer = told(port, b"GET /a HTTP/1.1\r\n\r\njunk\r\n\r\n" + request("/b", None))
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 400 ") + answer.count(b"HTTP/1.1 200 ")
    assert b"GET /b" not in answer


def test_an_old_client_keeps_its_connection_only_where_it_asks(port: int) -> None:
    assert bodies(told(port, b"GET /a HTTP/1.0\r\n\r\n")) == [b"GET /a "]
    with connect(port) as client:
        client.sendall(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"connection: keep-alive" in client.recv(1 << 16)
        client.sendall(b"GET /b HTTP/1.0\r\n\r\n")
        assert bodies(rest(client)) == [b"GET /b "]


def test_a_head_has_no_body_and_its_length(port: int) -> None:
    answer = told(port, b"HEAD /abc HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 10\r\n" in answer


def test_targets_and_fields_are_read_as_they_are_meant() -> None:
    with serving() as (echo, port, _):
        for target in (b"/a%2Fb?q=%31", b"http://h:1/c/d?e", b"/%FF", b"*", b"/f#g"):
            told(port, b"GET " + target + b" HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert echo.seen == ["/a/b", "/c/d", "/�", "*", "/f"]


def test_another_protocol_is_not_spoken_and_the_request_answered(port: int) -> None:
    answer = told(port, b"GET /a HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nxx")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_body_is_waited_for_once_the_client_is_told_to_go_on(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert bodies(rest(client)) == [b"POST /a abc"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_and_the_answer_arrives(port: int, chunked: bool) -> None:
    answer = told(port, request("/a", b"x" * (LIMIT + 1), chunked=chunked))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_an_answer_before_the_body_arrives_although_the_client_goes_on_sending(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"POST /unread HTTP/1.1\r\nContent-Length: 500000\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        client.sendall(b"x" * 400_000)  # is taken, and thrown away
        assert rest(client) == b""


def test_an_error_of_a_handler_is_an_answer_and_ends_the_connection(port: int) -> None:
    assert told(port, request("/fail", None)).startswith(b"HTTP/1.1 500 ")
    assert bodies(told(port, request("/a", None, more=CLOSE))) == [b"GET /a "]


def test_a_client_that_sends_no_more_still_gets_its_answers(port: int) -> None:
    with connect(port) as client:
        client.sendall(request("/later", None) + request("/later", None))
        client.shutdown(socket.SHUT_WR)
        assert bodies(rest(client)) == [b"GET /later "] * 2


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(port: int) -> None:
    with connect(port) as client:
        client.sendall(request("/large", None) + request("/a", None, more=CLOSE))
        time.sleep(0.1)
        large, small = bodies(rest(client))
        assert (len(large), small) == (len(b"GET /large ") + 3_000_000, b"GET /a ")


def test_a_client_that_takes_nothing_is_let_go() -> None:
    with serving(timeout_s=0.2) as (_, port, connections), connect(port) as client:
        client.sendall(request("/large", None) * 3)
        until = time.monotonic() + 10
        while not connections.num_closed:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_a_client_that_leaves_in_the_middle_is_noted() -> None:
    with serving() as (echo, port, _):
        with connect(port) as client:
            client.sendall(b"POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
            time.sleep(0.1)
        until = time.monotonic() + 10
        while "gone" not in echo.seen:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_a_client_that_sends_thousands_of_requests_at_once_lets_others_have_their_turn() -> None:
    with serving() as (echo, port, _):
        with connect(port) as greedy, connect(port) as other:
            greedy.sendall(request("/a", None) * 2000 + request("/last", None, more=CLOSE))
            other.sendall(request("/b", None, more=CLOSE))
            assert bodies(rest(other)) == [b"GET /b "]
            assert len(bodies(rest(greedy))) == 2001
        assert echo.seen.index("/b") < echo.seen.index("/last")


def test_no_more_connections_are_taken_than_there_may_be() -> None:
    with serving(most=4, timeout_s=30.0) as (_, port, connections):
        clients = [connect(port) for _ in range(9)]
        try:
            for client in clients[:2]:
                client.sendall(request("/a", None))
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")
            assert connections.num_open <= 4
        finally:
            for client in clients:
                client.close()


def test_what_waited_while_the_loop_was_at_work_says_so() -> None:
    loop = uvloop.new_event_loop()
    found: list[int] = []
    try:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        turns = Turns(loop)

        def read() -> None:
            ours.recv(10)
            now = turns.read()
            found.append(turns.waited(now))
            if len(found) == 2:  # the loop works, and something comes meanwhile
                theirs.send(b"x")
                time.sleep(0.02)
            if len(found) == 3:
                loop.stop()

        loop.add_reader(ours.fileno(), read)
        theirs.send(b"x")
        loop.call_later(0.05, theirs.send, b"x")
        loop.run_forever()
    finally:
        loop.close()
    asleep, again, busy = found
    assert turns.waited_on_average(0) <= turns.waited(0)
    assert max(asleep, again) < 5_000_000
    assert busy >= 20_000_000
