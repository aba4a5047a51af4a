"""A real Spark standalone cluster on this machine: a master and workers, from pyspark's own classes."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyspark
from free_ports import free_port

HOST = "127.0.0.1"
SHORT_JVM = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # as `spark_jvm` has it for short runs


@dataclass
class Cluster:
    """A master and its workers; every process leads a group of its own, so that its executors end with it."""

    folder: Path
    port: int = field(default_factory=free_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"spark://{HOST}:{self.port}"

    @property
    def workers(self) -> list[subprocess.Popen[bytes]]:
        return self.processes[1:]

    def start(self, *, workers: int, cores: int = 1) -> None:
        arguments = ["--host", HOST, "--port", str(self.port), "--webui-port", str(free_port())]
        self._launch("master", "org.apache.spark.deploy.master.Master", *arguments)
        self._wait_for("master", "I have been elected leader")
        for number in range(workers):
            self._launch(
                f"worker{number}",
                "org.apache.spark.deploy.worker.Worker",
                *("--host", HOST, "--webui-port", str(free_port()), "--cores", str(cores), "--memory", f"{cores}g"),
                *("--work-dir", str(self.folder / f"work{number}"), self.url),
            )
        for number in range(workers):
            self._wait_for(f"worker{number}", "Successfully registered with master")

    def stop(self) -> None:
        for process in reversed(self.processes):
            kill_group(process)

    def _launch(self, name: str, spark_class: str, *arguments: str) -> None:
        home = Path(pyspark.__file__).parent
        own = {"SPARK_LOCAL_IP": HOST, "SPARK_DAEMON_MEMORY": "512m", "SPARK_HOME": str(home)}
        environment = {**os.environ, **own, "SPARK_DAEMON_JAVA_OPTS": SHORT_JVM}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [str(home / "bin" / "spark-class"), spark_class, *arguments],
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _wait_for(self, name: str, words: str) -> None:
        for _ in range(600):
            text = (self.folder / f"{name}.log").read_text(errors="replace")
            if words in text:
                return
            time.sleep(0.1)
        raise AssertionError(f"{name} did not say {words!r}: {text[-2000:]}")


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
