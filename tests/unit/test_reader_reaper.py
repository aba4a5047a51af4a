"""Which silent connections are closed: the late ones always, others where connections run out."""

import fcntl
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from forecache.reader.processes import reaper
from forecache.reader.processes.reaper import Connection, choose


def connections(address: bytes, *silences_s: float) -> list[Connection]:
    return [Connection(number, (address, number), silent_s) for number, silent_s in enumerate(silences_s)]


def test_only_late_connections_are_closed_while_there_are_enough() -> None:
    held = connections(b"\x0a\x00\x00\x01", 0.0, 3.0, 14.9, 15.0, 99.0)
    assert [each.silent_s for each in choose(held, after_s=15.0, most=10)] == [15.0, 99.0]


def test_under_pressure_the_address_that_holds_the_most_gives_up_its_longest_silent_ones() -> None:
    greedy, other = connections(b"\x0a\x00\x00\x01", 1.0, 9.0, 5.0, 0.1), connections(b"\x0a\x00\x00\x02", 12.0)
    chosen = choose(other + greedy, after_s=15.0, most=4)
    assert [(each.peer[0], each.silent_s) for each in chosen] == [(b"\x0a\x00\x00\x01", s) for s in (9.0, 5.0, 1.0)]


def test_connections_that_have_just_spoken_are_never_closed() -> None:
    assert choose(connections(b"\x0a\x00\x00\x01", *[0.2] * 50), after_s=15.0, most=10) == []


def test_no_more_is_closed_than_the_pressure_asks_for() -> None:
    assert len(choose(connections(b"\x0a\x00\x00\x01", *[2.0] * 10), after_s=15.0, most=16)) == 2


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_connections_of_a_port_are_found_among_other_descriptors(family: socket.AddressFamily, host: str) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server((host, 0), family=family)) for _ in range(2)]
        stack.enter_context(open(__file__))
        for each in (*socket.socketpair(), socket.socket(family, socket.SOCK_DGRAM)):
            stack.enter_context(each)
        clients, accepted = [], []
        for listener in listeners:
            for _ in range(3):
                clients.append(stack.enter_context(socket.create_connection(listener.getsockname()[:2])))
                accepted.append(stack.enter_context(listener.accept()[0]))
        port = listeners[0].getsockname()[1]
        found = {each.descriptor: each for each in reaper._connections(port)}
        assert found.keys() == {each.fileno() for each in accepted[:3]}
        for each in accepted[:3]:
            peer = found[each.fileno()].peer
            assert peer == (socket.inet_pton(family, host), each.getpeername()[1])
        assert reaper.close_silent(port, after_s=1e6, most=100) == (3, 0)
        assert reaper.close_silent(port, after_s=0.0, most=100) == (0, 3)
        assert [each.recv(1) for each in clients[:3]] == [b""] * 3
        clients[3].send(b"a")
        assert accepted[3].recv(1) == b"a"


_LOCK = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def test_a_look_at_connections_gives_up_no_lock_on_a_file(tmp_path: Path) -> None:
    path = tmp_path / "locked"
    with open(path, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        list(reaper._connections(1))
        tried = subprocess.run([sys.executable, "-c", _LOCK, str(path)], capture_output=True, text=True, check=False)
    assert "BlockingIOError" in tried.stderr
