"""Which silent connections are closed: the late ones always, others where connections run out."""

import fcntl
import subprocess
import sys
from pathlib import Path

from forecache.reader.processes import reaper
from forecache.reader.processes.reaper import Connection, choose


def connections(address: str, *silences_s: float) -> list[Connection]:
    return [Connection(number, (address, number), silent_s) for number, silent_s in enumerate(silences_s)]


def test_only_late_connections_are_closed_while_there_are_enough() -> None:
    held = connections("10.0.0.1", 0.0, 3.0, 14.9, 15.0, 99.0)
    assert [each.silent_s for each in choose(held, after_s=15.0, most=10)] == [15.0, 99.0]


def test_under_pressure_the_address_that_holds_the_most_gives_up_its_longest_silent_ones() -> None:
    greedy, other = connections("10.0.0.1", 1.0, 9.0, 5.0, 0.1), connections("10.0.0.2", 12.0)
    chosen = choose(other + greedy, after_s=15.0, most=4)
    assert [(each.peer[0], each.silent_s) for each in chosen] == [("10.0.0.1", s) for s in (9.0, 5.0, 1.0)]


def test_connections_that_have_just_spoken_are_never_closed() -> None:
    assert choose(connections("10.0.0.1", *[0.2] * 50), after_s=15.0, most=10) == []


def test_no_more_is_closed_than_the_pressure_asks_for() -> None:
    assert len(choose(connections("10.0.0.1", *[2.0] * 10), after_s=15.0, most=16)) == 2


_LOCK = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def test_a_look_at_connections_gives_up_no_lock_on_a_file(tmp_path: Path) -> None:
    path = tmp_path / "locked"
    with open(path, "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        list(reaper._connections(1))
        tried = subprocess.run([sys.executable, "-c", _LOCK, str(path)], capture_output=True, text=True, check=False)
    assert "BlockingIOError" in tried.stderr
