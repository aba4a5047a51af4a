"""Requests at a constant rate whatever the answers do, and what became of each."""

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

GIVEN_UP_S = 60.0


@dataclass
class Asked:
    """One request: when it was due (seconds of the run), its status (0: no answer), the answer, and how late it was."""

    due_s: float
    status: int = 0
    body: bytes = b""
    took_s: float = 0.0
    error: str = ""


@dataclass
class OpenLoop:
    """Asks `rate` times a second from a thread of its own; times count from when a request was due, not sent.

    Args:
        request: From the number of a request to its bytes on the wire.
        at_random: Whether they are due at random moments, as a Poisson process; else at equal distances.
    """

    port: int
    request: Callable[[int], bytes]
    rate: float
    asked: list[Asked] = field(default_factory=list)
    at_random: bool = False

    def __enter__(self) -> "OpenLoop":
        self._stop = threading.Event()
        self._began = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._drive()))
        self._thread.start()
        self._began.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def now_s(self) -> float:
        return time.perf_counter() - self._start

    async def _drive(self) -> None:
        self._start = time.perf_counter()
        self._idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
        running: set[asyncio.Task[None]] = set()
        due_s, chance = 0.0, random.Random(5)
        self._began.set()
        while not self._stop.is_set():
            while due_s <= self.now_s:
                one = Asked(due_s)
                task = asyncio.create_task(self._ask(one, self.request(len(self.asked))))
                self.asked.append(one)
                running.add(task)
                task.add_done_callback(running.discard)
                due_s = due_s + chance.expovariate(self.rate) if self.at_random else len(self.asked) / self.rate
            await asyncio.sleep(0.001)
        await asyncio.gather(*running)
        for _, writer in self._idle:
            writer.close()

    async def _ask(self, one: Asked, request: bytes) -> None:
        try:
            one.status, one.body = await asyncio.wait_for(self._answer(request), GIVEN_UP_S)
        except Exception as error:  # noqa: BLE001  # whatever fails is what is counted
            one.error = repr(error)
        one.took_s = self.now_s - one.due_s

    async def _answer(self, request: bytes) -> tuple[int, bytes]:
        while (found := await self._exchange(request))[0] == 408:
            pass  # this process stood still before it had sent all of it
        return found

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
        if b"connection: close" in lines:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head[9:12]), body

    def lost(self) -> list[Asked]:
        """The requests that were not answered with 200."""
        return [one for one in self.asked if one.status != 200]

    def slowest(self) -> Asked:
        return max(self.asked, key=lambda one: one.took_s)

    def quantile_ms(self, share: float) -> float:
        took = sorted(one.took_s for one in self.asked)
        return took[min(len(took) - 1, int(share * len(took)))] * 1000


def get(path: str, *headers: str) -> bytes:
    return _head("GET", path, headers) + b"\r\n"


def post(path: str, body: bytes, *headers: str) -> bytes:
    length = (f"content-length: {len(body)}", "content-type: application/json", *headers)
    return _head("POST", path, length) + b"\r\n" + body


def _head(method: str, path: str, headers: tuple[str, ...]) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "host: forecache", *headers)).encode()
