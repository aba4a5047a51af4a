"""The ports that tests give to servers: no two processes get the same, and none that is in use."""

import socket
import subprocess
import sys
from pathlib import Path

from free_ports import BUS, FIRST, free_port, is_free

PROGRAM = "from free_ports import free_port; print(*(free_port() for _ in range(150)), flush=True); input()"


def test_processes_at_the_same_time_get_ports_of_their_own_below_those_of_the_kernel() -> None:
    command = [sys.executable, "-c", PROGRAM]
    folder = Path(__file__).parents[1] / "support"
    others = [
        subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    given = [free_port() for _ in range(150)]
    for other in others:
        assert other.stdout is not None
        given += [int(port) for port in other.stdout.readline().split()]
    for other in others:
        other.communicate("\n")
    assert len(given) == len(set(given)) == 600
    assert FIRST <= min(given) <= max(given) < FIRST + BUS


def test_a_port_that_is_in_use_is_not_given_out() -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not is_free(port)
    assert is_free(port)
