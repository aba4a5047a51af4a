"""Closes connections that have sent nothing for too long, which the server's own timeouts do not cover.

Granian times out a request head only once it has begun. A client that connects and stays silent, one that stops within
HTTP/2's preface, and one that does not read its answer would each keep a connection for ever; a few thousand of them
would leave none for others. The kernel knows how long each has been silent (TCP_INFO), at no cost to requests.

While most connections are taken, silent ones are closed much sooner, first those of the address with the most
connections. Behind a balancer all connections have one address, so that nothing is refused for its address alone.
"""

import os
import socket
import stat
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

SUPPORTED = sys.platform == "linux"
PRESSURE_SHARE = 0.5
"""While a larger share of the connections is open, silent ones are closed early."""
PRESSURE_SILENCE_S = 0.5
"""Silence after which a connection may be closed early: longer than a round trip around the world."""

_ESTABLISHED = 1
_INFO_BYTES = 60
_STATE = struct.Struct("<B51xI")  # linux/tcp.h, struct tcp_info: tcpi_state, tcpi_last_data_recv (milliseconds)


class Connection(NamedTuple):
    descriptor: int
    peer: tuple[str, int]
    silent_s: float


def close_silent(port: int, *, after_s: float, most: int) -> tuple[int, int]:
    """Close this process's connections on a listening port whose clients have been silent for `after_s`, or sooner.

    Args:
        most: Most connections that the process accepts at once.

    Returns:
        The numbers of connections that stay open and that were closed.
    """
    connections = list(_connections(port))
    chosen = choose(connections, after_s=after_s, most=most)
    closed = sum(_close(each) for each in chosen)
    return len(connections) - closed, closed


def choose(connections: list[Connection], *, after_s: float, most: int) -> list[Connection]:
    """The connections to close: all that are silent for too long, and under pressure more of the busiest address."""
    late = [each for each in connections if each.silent_s >= after_s]
    over = len(connections) - len(late) - int(most * PRESSURE_SHARE)
    if over <= 0:
        return late
    held = Counter(each.peer[0] for each in connections)
    early = [each for each in connections if PRESSURE_SILENCE_S <= each.silent_s < after_s]
    early.sort(key=lambda each: (held[each.peer[0]], each.silent_s), reverse=True)
    return late + early[:over]


def _connections(port: int) -> Iterator[Connection]:
    for name in os.listdir("/proc/self/fd"):
        connection = _duplicate(int(name))
        if connection is None:
            continue
        with connection:
            try:
                if connection.getsockname()[1] != port:
                    continue
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
                peer = connection.getpeername()[:2]
            except OSError:  # it is a listening socket, or closed by itself
                continue
        state, silent_ms = _STATE.unpack_from(info)
        if state == _ESTABLISHED:
            yield Connection(int(name), peer, silent_ms / 1000)


def _close(chosen: Connection) -> bool:
    connection = _duplicate(chosen.descriptor)
    if connection is None:
        return False
    with connection:
        try:
            if connection.getpeername()[:2] != chosen.peer:  # another connection has reused the descriptor
                return False
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
    return True


def _duplicate(descriptor: int) -> socket.socket | None:
    """A TCP socket of this process under a new descriptor, which no other thread can close and reuse."""
    try:
        # Nothing but sockets: closing a copy of a file's descriptor would give up this process's locks on the file, by
        # which LMDB knows who reads a live layer.
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        connection = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None
    if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
        return connection
    connection.close()
    return None
