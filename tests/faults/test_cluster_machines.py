"""The machines of `make cluster`: empty disks, host names and processes of their own, gone at once when killed."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from _cluster.cluster import Cluster
from _cluster.control import Control, serve_control
from _cluster.machines import NAMESPACES, Machine, Machines
from _cluster.proof import Chaos, Size, worker_command
from _cluster.waits import Waits
from kafka import KafkaBroker
from waiting import wait_for

pytestmark = pytest.mark.skipif(
    subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode != 0,
    reason="this user may not have namespaces of its own",
)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    started = Machines(tmp_path, os.environ)
    yield started
    started.stop_all()


def output(machine: Machine) -> list[str]:
    assert machine.process.wait(timeout=60) == 0, machine.log.read_text()
    return machine.log.read_text().splitlines()


def test_a_machine_has_a_name_processes_and_an_empty_disk_of_its_own(machines: Machines) -> None:
    see = "hostname; echo $$; find $FORECACHE_HOME $TMPDIR; echo something > $FORECACHE_HOME/file"
    for name, host_name in {"first": "first-0", "second": "second-0"}.items():
        shown = output(machines.start(name, ["bash", "-c", see]))
        assert shown[-4] == host_name
        assert int(shown[-3]) < 50  # counted from the machine's first process
        assert shown[-2:] == [f"{machines.disk}/home", f"{machines.disk}/tmp"]
    assert list(machines.disk.iterdir()) == []
    assert output(machines.start("first", ["hostname"]))[-1] == "first-1"


def test_a_killed_machine_takes_all_its_processes_along_and_is_replaced_by_an_empty_one(
    machines: Machines, tmp_path: Path
) -> None:
    mark = f"{tmp_path}/of this test"
    child = f"import time; open({str(tmp_path / 'began')!r}, 'a').write('x'); time.sleep(600)  # {mark}"
    command = ["bash", "-c", f'setsid "{sys.executable}" -c "$CHILD" & sleep 600']
    machines.environment["CHILD"] = child
    machine = machines.start("reader", command, is_replaced=True)
    began = tmp_path / "began"
    wait_for(lambda: began.exists() and began.read_text() == "x")
    assert machines.kill("reader")
    assert machine.exit_code == -9
    wait_for(lambda: mark not in subprocess.check_output(["ps", "-ww", "-eo", "args"], text=True))
    wait_for(lambda: bool(machines.replace_ended()))
    wait_for(lambda: began.read_text() == "xx")
    assert machines.find("reader").number == 1


def test_a_machine_that_is_killed_while_it_starts_leaves_nothing(machines: Machines, tmp_path: Path) -> None:
    mark = f"{tmp_path}/never ends"
    for number in range(30):
        machines.start(f"pod-{number}", ["bash", "-c", "sleep 600", mark])
        machines.kill(f"pod-{number}")
    wait_for(lambda: mark not in subprocess.check_output(["ps", "-ww", "-eo", "args"], text=True))


def test_a_machine_that_is_told_to_stop_ends_its_command_in_its_own_way(machines: Machines, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = f"trap 'echo drained; exit 3' TERM; touch {ready}; while true; do sleep 0.1; done"
    machine = machines.start("pod", ["bash", "-c", command], is_replaced=True)
    wait_for(ready.exists)
    machines.stop("pod")
    assert machine.exit_code == 3
    assert machine.log.read_text() == "drained\n"
    assert machines.replace_ended() == []


def test_machines_are_started_listed_and_killed_over_the_control_interface_with_its_token_alone(
    machines: Machines, tmp_path: Path
) -> None:
    with serve_control(tmp_path, machines):
        assert (tmp_path / "control.json").stat().st_mode & 0o077 == 0
        control = Control(tmp_path)
        started = control.start("night", ["sleep", "600"], environment={"NIGHT": "3"})
        assert (started["exit_code"], started["name"]) == (None, "night")
        with pytest.raises(ValueError, match="runs"):
            control.start("night", ["true"])
        assert control.kill("night")
        assert not control.kill("night")
        assert [each["exit_code"] for each in control.list_machines()] == [-9]
        with pytest.raises(ValueError, match="no machine"):
            control.kill("day")
        control._given["token"] = "another"
        with pytest.raises(ValueError, match="token"):
            control.list_machines()
    with pytest.raises(FileNotFoundError):
        Control(tmp_path)


@pytest.fixture
def chaos(machines: Machines, tmp_path: Path) -> Iterator[Chaos]:
    """Chaos on these machines alone, without servers; it kills every 0.3 s."""
    given = {"FORECACHE_STORAGE_OPTIONS": "{}", "FORECACHE_SPARK_CONF": "{}"}
    cluster = Cluster(tmp_path, machines, given, "", "", KafkaBroker(tmp_path / "kafka"), ())
    chaos = Chaos(
        cluster, Size(1, (), kills=3, every_s=0.3, trained_every_days=1, started_s=0.0), tmp_path, seed=4, say=print
    )
    yield chaos
    chaos.stop.set()


def test_a_command_is_done_by_the_next_worker_if_the_machine_of_one_was_killed(
    chaos: Chaos, machines: Machines, tmp_path: Path
) -> None:
    task = chaos.tasks["night-a"]
    machines.environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    machines.start("night-a", worker_command(task), is_replaced=True)
    chaos.allowed_kills = 3
    for run in (chaos.kill_at_random, chaos.replace_ended):
        threading.Thread(target=run, daemon=True).start()
    task.assign(["run", "--help"])
    wait_for(lambda: chaos.findings.kills.total() == 3)
    wait_for(lambda: not chaos.try_again("night-a", ["run", "--help"]))
    task.assign(["no-such-command"])
    wait_for(lambda: task.exit_code is not None)
    assert chaos.try_again("night-a", ["run", "--help"])
    wait_for(lambda: not chaos.try_again("night-a", ["run", "--help"]))
    assert chaos.findings.kills == {"night": 3}
    assert chaos.findings.starts == {"night": 3}
    [failure] = chaos.findings.failures
    assert "no-such-command" in failure


def test_a_machine_that_does_nothing_is_found_unless_a_living_one_works_for_it(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("_cluster.waits._WINDOW_S", 1.0)
    monkeypatch.setattr("_cluster.waits.LIMIT_S", 6.0)  # longer than one that works may be kept from it
    waiting = "echo 'waiting for process 7 on {} (publish)'; sleep 600"
    commands = {
        "night-a": waiting.format("killed-0"),
        "night-b": waiting.format("living-0"),
        "night-c": "sleep 600",
        "night-d": "while true; do :; done",
    }
    for name, command in commands.items():
        machines.start(name, ["bash", "-c", command])
    waits = Waits()

    def is_stuck() -> bool:
        waits.look(machines.list_machines(), {"killed-0": 0.0})
        return len(waits.stuck) >= 2

    wait_for(is_stuck)
    assert sorted(each.partition(":")[0] for each in waits.stuck) == ["night-a-0", "night-c-0"]
    assert waits.longest_s.keys() == {"night-a"}
    assert waits.longest_s["night-a"] >= 6.0
