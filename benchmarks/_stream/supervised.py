"""Processes, a Kafka broker among them, that are killed at random and started again as a service manager does it."""

import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil
from _store.processes import BenchmarkError, stop

ROOT = Path(__file__).resolve().parents[2]
KAFKA = ROOT / "scripts" / "kafka.sh"
_LOOK_S = 0.02
_TAIL = 15
_MOST_ENDS = 3
_PORTS, _CONTROLLER = range(21_000, 22_000), 10_000
"""Below the ports that the kernel gives out, with those of the controllers."""


class Service(AbstractContextManager["Service"]):
    """A process that is started again whenever it has ended, until the block ends.

    Attributes:
        kills: How often `kill` has killed it.
        ended: How often it has ended by itself with an error, which no service may.
        is_done: It has ended by itself without an error, and is not started again.
    """

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.kills, self.ended, self.is_done = name, 0, 0, False
        self.log = log
        self._command, self._environment = (
            list(map(str, command)),
            {**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        )
        self._lock, self._over = threading.Lock(), threading.Event()
        self._was_killed = False
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> "Service":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        stop(self._process)

    def kill(self) -> bool:
        """SIGKILL to it and its children; whether it ran."""
        with self._lock:
            if self._process.poll() is not None:
                return False
            self._was_killed = True
            kill_tree(self._process.pid)
            self.kills += 1
        return True

    def _start(self) -> "subprocess.Popen[bytes]":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as output:
            return subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
                env=self._environment, start_new_session=True,
            )  # fmt: skip

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            with self._lock:
                code = self._process.poll()
                if code is None:
                    continue
                if not self._was_killed and code == 0:
                    self.is_done = True
                    return
                self.ended += not self._was_killed
                self._was_killed = False
                if self.ended > _MOST_ENDS:
                    return
                self._process = self._start()

    def check(self) -> None:
        """
        Raises:
            BenchmarkError: It has ended by itself again and again.
        """
        if self.ended > _MOST_ENDS:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_TAIL:])
            raise BenchmarkError(f"{self.name} has ended {self.ended} times by itself. Its log ends:\n{tail}")


def kill_tree(pid: int) -> None:
    """SIGKILL to a process and all that it started, and wait until they are gone."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in family:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=20)


def _command_of(pid: int) -> bytes:
    """What a process was started with; b"" where it has ended, whether its parent has noticed or not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def broker_port() -> int:
    """A free port whose neighbour 10,000 above is free too: the controller of scripts/kafka.sh listens there."""
    for port in random.sample(_PORTS, len(_PORTS)):
        if _is_free(port) and _is_free(port + _CONTROLLER):
            return port
    raise BenchmarkError(f"No port from {_PORTS.start} to {_PORTS.stop} is free.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Broker(AbstractContextManager["Broker"]):
    """Kafka's broker, from scripts/kafka.sh.

    Attributes:
        brokers: What clients connect to.
        kills: How often `kill` has killed it.
    """

    name = "broker"

    def __init__(self, folder: Path) -> None:
        self._folder, self._port, self.kills = folder, broker_port(), 0
        self.brokers = f"127.0.0.1:{self._port}"

    def __enter__(self) -> "Broker":
        self._script("start", str(self._port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._script("stop")

    def create_topic(self, name: str, partitions: int) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.brokers})
        admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=1)])[name].result(timeout=60)

    def kill(self) -> bool:
        """SIGKILL, and a start at once; returns when it listens again."""
        pid = int((self._folder / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
        while _command_of(pid):
            time.sleep(_LOOK_S)
        self.kills += 1
        self._script("start", str(self._port))
        return True

    def check(self) -> None:
        """It is started whenever it is killed."""

    def _script(self, action: str, *arguments: str) -> None:
        done = subprocess.run(
            ["bash", str(KAFKA), action, str(self._folder), *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchmarkError(f"The broker did not {action}: {done.stderr[-1500:]}")


Killed = Service | Broker


@dataclass
class Kills(AbstractContextManager["Kills"]):
    """Kills one of several processes at random moments while the block runs.

    Attributes:
        every_s: Between two kills, on average: the pauses are from half of it to one and a half.
        most: Kills after which it stops; None: as long as the block runs.
        done: What was killed, and when in seconds since the start.
    """

    victims: Sequence[Killed]
    every_s: float
    most: int | None = None
    seed: int = 0
    until: Callable[[], bool] = lambda: False
    done: list[tuple[str, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> "Kills":
        self._over, self._started = threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def is_over(self) -> bool:
        return self.most is not None and len(self.done) >= self.most

    def _run(self) -> None:
        rng = random.Random(self.seed)
        order: list[Killed] = []
        while not self.is_over and not self._over.wait(self.every_s * rng.uniform(0.5, 1.5)):
            if self.until():
                return
            # Each as often as the others, in an order of chance.
            order = order or rng.sample(self.victims, len(self.victims))
            victim = order.pop()
            try:
                if victim.kill():
                    self.done.append((victim.name, round(time.monotonic() - self._started, 2)))
            except (BenchmarkError, OSError, psutil.Error) as error:
                self.failed.append(f"{victim.name}: {error}")
                return

    def counts(self) -> dict[str, int]:
        """How often each was killed."""
        return {victim.name: sum(name == victim.name for name, _ in self.done) for victim in self.victims}
