"""The connections of a worker: accepted up to a limit, and closed if their clients are silent for too long.

A client that connects and stays silent, one that sends its request very slowly, and one that does not read its answer
would each keep a connection for ever. While more than half of the connections are taken, silent ones are closed much
sooner, first those of the address with the most connections. Behind a balancer all connections have one address, so
no connection is refused for its address alone.
"""

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import NamedTuple

from forecache.kit.http.http1 import Handle, Http1Connection, SocketWaitEstimator
from forecache.kit.http.load_shedding import LoadShedder
from forecache.kit.process.wakes import SILENT_CONNECTIONS

logger = logging.getLogger("forecache.reader")
SILENCE_TIMEOUTS = 1.5
"""A silent connection is closed after so many request timeouts."""
PRESSURE_SHARE = 0.5
"""While a larger share of the connections is open, silent ones are closed early."""
PRESSURE_SILENCE_S = 0.5
"""Silence after which a connection may be closed early: longer than a round trip around the world."""
NEW_SILENCE_S = 1.0
"""Time that a client has for its first request if the worker ends."""
_DRAIN_INTERVAL_S = 0.02
"""Between two looks for idle connections of a worker that ends; what has arrived is read meanwhile."""
_AT_ONCE = 64
"""Most connections that are accepted in one iteration of the loop."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_S = 1.0
"""Pause of accepting after the machine had no descriptor or memory left for a connection."""


class SilentConnection(NamedTuple):
    connection: Http1Connection
    peer: str
    silent_s: float


class Connections:
    """Accepts from a listening socket, on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        handle: Handle,
        *,
        most: int,
        timeout_s: float,
        shedder: LoadShedder | None = None,
    ) -> None:
        self._loop, self._listener, self._handle = loop, listener, handle
        self._most, self._timeout_s = most, timeout_s
        self._open: set[Http1Connection] = set()
        self._coming: set[asyncio.Task[None]] = set()
        self._accepts = False
        self.turns, self.shedder = SocketWaitEstimator(loop), shedder or LoadShedder()
        self.is_ending = False
        self.num_closed = self.waited_ns = 0

    @property
    def num_open(self) -> int:
        return len(self._open)

    def start(self) -> None:
        self._start_accepting()
        self._loop.call_later(SILENT_CONNECTIONS.every_s, self._close_silent)

    async def drain(self) -> None:
        """Stop accepting; return when every request is answered and every connection closed.

        A connection that the kernel has accepted, and a request that it has received, are answered too: a client takes
        the end of a connection that it has just opened for a failure.
        """
        self.is_ending = True
        self._stop_accepting()
        while self._accept():
            pass
        self._listener.close()
        until = monotonic() + NEW_SILENCE_S
        while self._coming or self._open:
            await asyncio.sleep(_DRAIN_INTERVAL_S)
            for each in list(self._open):
                if each.is_idle and (not each.is_new or monotonic() > until):
                    each.close()

    def add_connection(self, connection: Http1Connection) -> None:
        self._open.add(connection)
        if len(self._open) >= self._most:
            self._stop_accepting()

    def remove_connection(self, connection: Http1Connection) -> None:
        self._open.discard(connection)
        self._resume_accepting()

    def _start_accepting(self) -> None:
        if not self._accepts:
            self._accepts = True
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _stop_accepting(self) -> None:
        if self._accepts:
            self._accepts = False
            self._loop.remove_reader(self._listener.fileno())

    def _accept(self) -> bool:
        """Accept connections that wait; return whether more of them may be accepted at once."""
        for _ in range(min(_AT_ONCE, self._most - len(self._open) - len(self._coming))):
            try:
                accepted, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    logger.error("No connection can be accepted for %g s: %s.", _PAUSE_S, error.strerror)
                    self._stop_accepting()
                    self._loop.call_later(_PAUSE_S, self._resume_accepting)
                return False
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._connect(accepted))
            self._coming.add(task)
            task.add_done_callback(self._coming.discard)
        return len(self._open) + len(self._coming) < self._most

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: Http1Connection(self._handle, self, self._loop), accepted)
        except OSError:  # it has gone already
            accepted.close()

    def _resume_accepting(self) -> None:
        if self._listener.fileno() >= 0 and len(self._open) < self._most:
            self._start_accepting()

    def _close_silent(self) -> None:
        self._loop.call_later(SILENT_CONNECTIONS.every_s, self._close_silent)
        now = monotonic()
        silent = list(self._silent_connections(now))
        for each in choose_to_close(
            silent, len(self._open), after_s=self._timeout_s * SILENCE_TIMEOUTS, most=self._most
        ):
            each.connection.abort()
            self.num_closed += 1
        for connection in self._open:
            if connection.head_since and now - connection.head_since > self._timeout_s:
                connection.abort()
                self.num_closed += 1

    def _silent_connections(self, now: float) -> Iterable[SilentConnection]:
        for each in self._open:
            if not each.is_answering:
                yield SilentConnection(each, each.peer, now - each.heard_at)


def choose_to_close(
    silent: Sequence[SilentConnection], num_open: int, *, after_s: float, most: int
) -> list[SilentConnection]:
    """Choose connections to close: all that are silent for too long; under pressure, more of the busiest address."""
    late = [each for each in silent if each.silent_s >= after_s]
    over = num_open - len(late) - int(most * PRESSURE_SHARE)
    if over <= 0:
        return late
    held = Counter(each.peer for each in silent)
    early = [each for each in silent if PRESSURE_SILENCE_S <= each.silent_s < after_s]
    early.sort(key=lambda each: (held[each.peer], each.silent_s), reverse=True)
    return late + early[:over]
