"""Closes connections that have sent nothing for too long, which the server's own timeouts do not cover.

Granian times out a request head once it has begun. A client that connects and stays silent, one that stops in the
middle of HTTP/2's preface, and one that does not read its answer would each hold a connection for ever; a few thousand
of them would leave none for others. The kernel knows how long each has been quiet (TCP_INFO), at no cost to requests.
"""

import os
import socket
import struct
import sys

SUPPORTED = sys.platform == "linux"

_ESTABLISHED = 1
_INFO_BYTES = 60
_STATE = struct.Struct("<B51xI")  # linux/tcp.h, struct tcp_info: tcpi_state, tcpi_last_data_recv (milliseconds)


def close_silent(port: int, *, after_s: float) -> int:
    """Close this process's connections on a listening port whose clients have been silent for `after_s`.

    Returns:
        How many were closed.
    """
    closed = 0
    for name in os.listdir("/proc/self/fd"):
        # A duplicate stays the same connection even if the original descriptor is closed and reused meanwhile.
        try:
            descriptor = os.dup(int(name))
        except OSError:
            continue
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            continue
        with connection:
            closed += _close_if_silent(connection, port, after_s)
    return closed


def _close_if_silent(connection: socket.socket, port: int, after_s: float) -> bool:
    try:
        if connection.type != socket.SOCK_STREAM or connection.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        if connection.getsockname()[1] != port:
            return False
        state, silent_ms = _STATE.unpack_from(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES))
        if state != _ESTABLISHED or silent_ms < after_s * 1000:
            return False
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it went away by itself
        return False
    return True
