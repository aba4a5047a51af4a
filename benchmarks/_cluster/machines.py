"""Machines: processes in namespaces of their own, with an empty disk and a host name, that are killed together."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).with_name("machine.sh")
NAMESPACES = ("unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", "--mount-proc")
_RESTART_S = 5.0
"""Least seconds between two starts of a machine that is replaced when it ends."""


@dataclass
class Machine:
    """A machine that was started.

    Attributes:
        log: File with what its command has printed, after what those before it have.
        log_offset: Bytes of those before it.
        is_replaced: Another machine takes its name and command when it ends, as a Deployment's pods are replaced.
        number: How many machines had this name before.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    process: "subprocess.Popen[bytes]"
    started_at: float
    is_replaced: bool = False
    number: int = 0
    log_offset: int = 0

    def read_log(self, last_bytes: int = 2000) -> str:
        """Read the end of what its command has printed."""
        with open(self.log, "rb") as file:
            file.seek(max(self.log_offset, file.seek(0, os.SEEK_END) - last_bytes))
            return file.read().decode(errors="replace")

    @property
    def host_name(self) -> str:
        """No other machine has had it."""
        return f"{self.name}-{self.number}"

    @property
    def host_name_before(self) -> str:
        """Host name of the machine that this one replaced."""
        return f"{self.name}-{self.number - 1}"

    @property
    def exit_code(self) -> int | None:
        """None while it runs; -9 if it was killed."""
        return self.process.poll()

    def describe(self) -> dict[str, object]:
        """The machine as JSON."""
        return {
            "name": self.name,
            "command": list(self.command),
            "log": str(self.log),
            "exit_code": self.exit_code,
            "seconds": round(time.time() - self.started_at, 1),
            "is_replaced": self.is_replaced,
            "number": self.number,
        }


class Machines:
    """The machines of a cluster, those that have ended included. All methods may be called from any thread."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Take a folder for logs and for the mount point of the disks, and the variables of each machine."""
        self._logs, self.disk = folder / "logs", folder / "disk"
        self._logs.mkdir(parents=True, exist_ok=True)
        self.disk.mkdir(exist_ok=True)
        self.environment = dict(environment) | {
            "FORECACHE_HOME": str(self.disk / "home"),
            "TMPDIR": str(self.disk / "tmp"),
        }
        self._machines: dict[str, Machine] = {}
        self._lock = threading.Lock()
        self._is_over = False

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        is_replaced: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Machine:
        """Start a machine that runs a command; its log is continued if one of this name was there before.

        Raises:
            ValueError: A machine of this name runs.
        """
        with self._lock:
            before = self._machines.get(name)
            if self._is_over or (before is not None and before.exit_code is None):
                raise ValueError("The cluster is being stopped." if self._is_over else f"A machine {name!r} runs.")
            number = before.number + 1 if before else 0
            log = self._logs / f"{name}.log"
            words = [*NAMESPACES, "bash", str(_SCRIPT), f"{name}-{number}", str(self.disk), *command]
            with open(log, "ab") as output:
                offset = output.tell()
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                    env={**self.environment, **(environment or {})},
                )  # fmt: skip
            machine = Machine(name, tuple(command), log, process, time.time(), is_replaced, number, offset)
            self._machines[name] = machine
            return machine

    def find(self, name: str) -> Machine:
        """The newest machine of this name.

        Raises:
            KeyError: There was none.
        """
        return self._machines[name]

    def list_machines(self, *, running_only: bool = False) -> list[Machine]:
        """All machines by name, the newest of each name."""
        with self._lock:
            found = sorted(self._machines.values(), key=lambda machine: machine.name)
        return [each for each in found if not running_only or each.exit_code is None]

    def kill(self, name: str) -> bool:
        """Kill all processes of a machine at once, as a loss of power does; False if it had ended. Its disk is gone."""
        machine = self.find(name)
        if machine.exit_code is not None:
            return False
        with suppress(ProcessLookupError):
            # One that has just been forked does not end with its parent yet.
            machine.process.send_signal(signal.SIGSTOP)
            first = _find_children(machine.process.pid)
            machine.process.kill()
            for pid in first:
                os.kill(pid, signal.SIGKILL)
        machine.process.wait()
        return True

    def stop(self, name: str, *, within_s: float = 30.0) -> None:
        """Send SIGTERM to a machine's command, as Kubernetes does, and kill the machine if it has not ended in time.

        A machine that is replaced is not any more.
        """
        machine = self.find(name)
        machine.is_replaced = False
        with suppress(OSError):
            for pid in _find_children(machine.process.pid):
                os.kill(pid, signal.SIGTERM)
        try:
            machine.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill(name)

    def replace_ended(self) -> list[Machine]:
        """Start those again that are to be replaced and have ended; returns the new ones."""
        earliest = time.time() - _RESTART_S
        due = [
            machine
            for machine in self.list_machines()
            if machine.is_replaced and machine.exit_code is not None and machine.started_at < earliest
        ]
        started = []
        for machine in due:
            with suppress(ValueError):
                started.append(self.start(machine.name, machine.command, is_replaced=True))
        return started

    def stop_all(self) -> None:
        """Kill every machine, and start no more."""
        with self._lock:
            self._is_over = True
        for machine in self.list_machines(running_only=True):
            self.kill(machine.name)


def _find_children(pid: int) -> list[int]:
    """Process ids of the children of a process; none if it has ended."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def write_json(path: Path, content: object) -> None:
    """Write a file that only this user can read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file)
