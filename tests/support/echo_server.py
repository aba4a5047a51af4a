"""A server for tests of connections: it answers each call with its method, path and body, from a loop in a thread."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop

from forecache.kit.http.call import BodyMemory, ClientGone, HttpCall
from forecache.kit.http.connections import Connections
from forecache.kit.http.problems import Problem

LIMIT = 100_000


class Echo:
    """Answers each call with its method, path and body; what a path says happens first."""

    def __init__(self) -> None:
        self.memory = BodyMemory(1 << 20)
        self.goes_on = threading.Event()
        self.seen: list[str] = []

    def __call__(self, call: HttpCall) -> Awaitable[None] | None:
        self.seen.append(call.path)
        if call.path.startswith("/hold"):
            self.goes_on.wait(60)  # the loop's thread, with all connections
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

    async def later(self, call: HttpCall) -> None:
        await asyncio.sleep(0.002)
        await self.read(call)

    async def read(self, call: HttpCall) -> None:
        try:
            self.answer(call, await call.read_body(LIMIT, self.memory, 20.0))
        except ClientGone:
            self.seen.append("gone")
        except Problem as problem:
            call.respond(problem.kind.status, problem.header_list(), problem.body())

    def answer(self, call: HttpCall, body: bytes) -> None:
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
        made.append(Connections(loop, listener, echo, **{"most": 1000, "timeout_s": 20.0, **limits}))
        loop.call_soon(made[0].start)
        loop.call_soon(ready.set)
        loop.run_until_complete(stopped(made[0]))
        loop.close()

    stop = asyncio.Event()

    async def stopped(connections: Connections) -> None:
        await stop.wait()
        await connections.drain()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield echo, port, made[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        assert not thread.is_alive()
        assert echo.memory.free_bytes == 1 << 20, "all memory of bodies was given back"


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


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
