"""Kafka's broker for a benchmark, which can be killed."""

import os
import random
import socket
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from _store.processes import ROOT, BenchmarkError

_SCRIPT = ROOT / "scripts" / "kafka.sh"
_PORTS, _CONTROLLER = range(21_000, 22_000), 10_000
"""Below the ports that the kernel gives out, with those of the controllers."""


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

    @property
    def pid(self) -> int:
        """The id of its process, which scripts/kafka.sh writes down."""
        return int((self._folder / "pid").read_text())

    def create_topic(self, name: str, partitions: int) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.brokers})
        admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=1)])[name].result(timeout=60)

    def kill(self) -> bool:
        """SIGKILL, and a start at once; returns when it listens again."""
        self._script("kill")
        self.kills += 1
        self._script("start", str(self._port))
        return True

    def check(self) -> None:
        """It is started whenever it is killed."""

    def _script(self, action: str, *arguments: str) -> None:
        done = subprocess.run(
            ["bash", str(_SCRIPT), action, str(self._folder), *arguments],
            capture_output=True, text=True, check=False, env={**os.environ, "KAFKA_JVM_OPTIONS": ""},
        )  # fmt: skip
        if done.returncode:
            raise BenchmarkError(f"The broker did not {action}: {done.stderr[-1500:]}")
