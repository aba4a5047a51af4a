"""Six nodes of a Redis Cluster whose processes a test kills and starts again."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from free_ports import free_port
from waiting import wait_for

NODES, PRIMARIES = 6, 3


class RedisNodes:
    """Three primaries with a replica each, without persistence; the nodes know each other after a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ports = [free_port() for _ in range(NODES)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for port in self.ports:
            self.start(port)
        nodes = [f"127.0.0.1:{port}" for port in self.ports]
        create = ["redis-cli", "--cluster", "create", *nodes, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(create, check=True, capture_output=True, timeout=120)
        wait_for(self.is_whole, seconds=120)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.ports[0]}"

    def start(self, port: int) -> None:
        own = self._folder / str(port)
        own.mkdir(parents=True, exist_ok=True)
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--dir", str(own)]
        command += ["--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"]
        with open(own / "server.log", "ab") as log:
            self._processes[port] = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(lambda: self._answers(port), seconds=120)

    def kill(self, port: int) -> None:
        self._processes[port].send_signal(signal.SIGKILL)
        self._processes.pop(port).wait(60)

    def close(self) -> None:
        for port in list(self._processes):
            self.kill(port)

    def info(self, port: int, command: str, *rest: str) -> Any:
        with redis.Redis(port=port) as client:
            return client.execute_command(command, *rest)

    def role(self, port: int) -> str:
        return str(self.info(port, "ROLE")[0], "ascii")

    def replica_of(self, port: int) -> int:
        """The port of a primary's replica."""
        for other in self._processes:
            role = self.info(other, "ROLE")
            if role[0] == b"slave" and role[2] == port:
                return other
        raise AssertionError(f"{port} has no replica")

    def primaries(self) -> list[int]:
        return [port for port in self._processes if self.role(port) == "master"]

    def is_whole(self) -> bool:
        """Return whether all living nodes agree that living ones serve every slot, and each replica follows."""

        def each(check: Callable[[int], bool]) -> bool:
            return all(check(port) for port in self._processes)

        return (
            each(lambda port: b"cluster_state:ok" in self.info(port, "CLUSTER", "INFO"))
            and each(lambda port: self.role(port) == "master" or self.info(port, "ROLE")[3] == b"connected")
            and each(self._knows_living_primaries)
        )

    def _knows_living_primaries(self, port: int) -> bool:
        primaries = set(self.primaries())
        return all(served[2][1] in primaries for served in self.info(port, "CLUSTER", "SLOTS"))

    def _answers(self, port: int) -> bool:
        try:
            return bool(self.info(port, "PING"))
        except redis.ConnectionError:
            return False
