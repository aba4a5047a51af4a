"""Closes connections that have sent nothing for too long, which the server's own timeouts do not cover.

Granian times out a request head only once it has begun. A client that connects and stays silent, one that stops within
HTTP/2's preface, and one that does not read its answer would each keep a connection for ever; a few thousand of them
would leave none for others. The kernel knows how long each has been silent (TCP_INFO), at no cost to requests.

While most connections are taken, silent ones are closed much sooner, first those of the address with the most
connections. Behind a balancer all connections have one address, so that nothing is refused for its address alone.
"""

import ctypes
import os
import socket
import stat
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

SUPPORTED = sys.platform == "linux"
PRESSURE_SHARE = 0.5
"""While a larger share of the connections is open, silent ones are closed early."""
PRESSURE_SILENCE_S = 0.5
"""Silence after which a connection may be closed early: longer than a round trip around the world."""

_ESTABLISHED = 1
_AT_ONCE, _PAUSE_S = 128, 0.0005
"""Descriptors looked at without giving up the interpreter's lock, in about 0.1 ms, and the pause between two lots."""
_STATE = struct.Struct("<B51xI")  # linux/tcp.h, struct tcp_info: tcpi_state, tcpi_last_data_recv (milliseconds)
_SIX = struct.pack("=H", socket.AF_INET6)
_libc = ctypes.PyDLL(None)  # not CDLL, of which every call gives up the interpreter's lock
_buffer = ctypes.create_string_buffer(_STATE.size)  # of the one thread that looks; longer than any address


class Connection(NamedTuple):
    descriptor: int
    peer: tuple[bytes, int]
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
    """This process's connections on the port.

    Thousands of calls that each gave up the interpreter's lock would hold the event loop up at each, so these keep it,
    a few at a time.
    """
    for descriptor in range(_slots()):
        if descriptor % _AT_ONCE == 0:
            sleep(_PAUSE_S)
        info = _asked(_libc.getsockopt, descriptor, socket.IPPROTO_TCP, socket.TCP_INFO)
        if len(info) < _STATE.size:
            continue
        state, silent_ms = _STATE.unpack_from(info)
        if state == _ESTABLISHED and _address(_asked(_libc.getsockname, descriptor))[1] == port:
            peer = _address(_asked(_libc.getpeername, descriptor))
            yield Connection(descriptor, peer, silent_ms / 1000)


def _slots() -> int:
    """All descriptors of this process are below this number."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("FDSize:")[2].split(maxsplit=1)[0])


def _asked(call: Any, descriptor: int, *what: int) -> bytes:
    """What the kernel says of a descriptor; b"" where it is no TCP socket, or none any more."""
    size = ctypes.c_uint32(len(_buffer))
    return _buffer.raw[: size.value] if call(descriptor, *what, _buffer, ctypes.byref(size)) == 0 else b""


def _address(given: bytes) -> tuple[bytes, int]:
    """Address and port of a `sockaddr_in` or `sockaddr_in6`."""
    is_six = given[:2] == _SIX
    return given[8:24] if is_six else given[4:8], int.from_bytes(given[2:4], "big")


def _close(chosen: Connection) -> bool:
    connection = _duplicate(chosen.descriptor)
    if connection is None:
        return False
    with connection:
        if _address(_asked(_libc.getpeername, connection.fileno())) != chosen.peer:
            return False  # another connection has reused the descriptor
        try:
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
