"""Where a reader listens, and that its counters outlive what they count."""

import mmap
import socket
import subprocess
import sys

import pytest

from forecache.base.errors import ConflictError, SettingsError
from forecache.serve.reader.server import listen
from forecache.serve.reader.shared_memory import ReaderSharedMemory


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_reader_without_tokens_listens_beyond_loopback_only_where_that_is_allowed(host: str) -> None:
    with pytest.raises(SettingsError, match="FORECACHE_READER_TOKENS.*FORECACHE_READER_ANONYMOUS"):
        listen(host, 0, anonymous=False)
    close(listen(host, 0, anonymous=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost"])
def test_a_reader_without_tokens_listens_on_loopback(host: str) -> None:
    close(listen(host, 0, anonymous=False))


@pytest.mark.parametrize("count", [1, 2])
def test_a_port_belongs_to_one_reader(count: int) -> None:
    listeners = listen("127.0.0.1", 0, anonymous=False, count=count)
    port = listeners[0].getsockname()[1]
    for wanted in (1, 2):
        with pytest.raises(ConflictError, match=f"Port {port} "):
            listen("127.0.0.1", port, anonymous=False, count=wanted)
    close(listeners)
    close(listen("127.0.0.1", port, anonymous=False))


def test_connections_are_spread_over_the_workers() -> None:
    listeners = listen("127.0.0.1", 0, anonymous=False, count=2)
    clients = [socket.create_connection(listeners[0].getsockname()) for _ in range(64)]
    taken = [accepted(listener) for listener in listeners]
    assert sum(taken) == 64
    assert min(taken) >= 10  # fewer of 64 fair coins fall on one side once in ten million times
    close([*listeners, *clients])


def accepted(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return count
        connection.close()
        count += 1


def close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def test_shared_memory_is_reserved_when_it_is_made() -> None:
    runtime = ReaderSharedMemory.create(num_slots=3, slot_bytes=1 << 20)
    try:
        reserved = runtime.path.stat().st_blocks * 512
        assert reserved >= mmap.PAGESIZE + 3 * (1 << 20)
    finally:
        runtime.remove()


def test_a_worker_without_a_slot_counts_for_itself() -> None:
    runtime = ReaderSharedMemory.create(num_slots=1, slot_bytes=4096)
    first, second = runtime.claim_slot(), runtime.claim_slot()
    first[0], second[0] = 1, 2
    assert (runtime.slot(0)[0], second[0]) == (1, 2)


def test_a_slot_stays_claimed_when_a_copy_of_its_file_s_descriptor_is_closed() -> None:
    made = ReaderSharedMemory.create(num_slots=2, slot_bytes=4096)
    claiming = [sys.executable, "-c", CLAIM, str(made.path)]
    with subprocess.Popen(claiming, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == "claimed\n"
        ReaderSharedMemory(made.path, 4096).claim_slot()[0] = 2
        worker.stdin.close()
    assert (made.slot(0)[0], made.slot(1)[0]) == (1, 2)


CLAIM = """
import os, sys
from pathlib import Path
from forecache.serve.reader.shared_memory import ReaderSharedMemory
runtime = ReaderSharedMemory(Path(sys.argv[1]), 4096)
runtime.claim_slot()[0] = 1
for name in os.listdir("/proc/self/fd"):  # as the reader does each second, which looks for silent connections
    try:
        os.close(os.dup(int(name)))
    except OSError:
        pass
print("claimed", flush=True)
sys.stdin.read()
"""
