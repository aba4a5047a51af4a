"""Ports for the servers that tests start, which no other test and no outgoing connection takes before the server does.

A port that the kernel gives to a probe is free again when the probe is closed, and the kernel may give it to anything
else. These ports lie below the kernel's ephemeral ones, and each process of the tests claims blocks of its own.
"""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FIRST, BLOCK, BLOCKS = 10_240, 100, 100
BUS = 10_000
"""A node of Redis Cluster also takes the port that is so much higher. Nothing here gives out ports up there."""
_FOLDER = Path(tempfile.gettempdir()) / f"forecache-test-ports-{os.getuid()}"


def free_port() -> int:
    """A port that this process has not given out before; the one 10,000 above it is free too."""
    return next(_ports(os.getpid()))


@cache
def _ports(pid: int) -> Iterator[int]:
    """The free ports of a process; a process that was forked claims its own."""
    ports = (port for block in _claimed() for port in range(block, block + BLOCK))
    return (port for port in ports if is_free(port) and is_free(port + BUS))


def _claimed() -> Iterator[int]:
    """The first port of each block that no other process has, claimed for as long as this process lives."""
    _FOLDER.mkdir(exist_ok=True)
    numbers = list(range(BLOCKS))
    random.shuffle(numbers)
    for number in numbers:
        file = os.open(_FOLDER / str(number), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        yield FIRST + number * BLOCK
    raise RuntimeError(f"All {BLOCKS} blocks of ports for tests are claimed: see {_FOLDER} and `lslocks`.")


def is_free(port: int) -> bool:
    """Whether a server could listen at the port of any address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections do not count
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
