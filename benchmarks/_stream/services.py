"""The processes of a stream: broker, engine, tailer and reader, each started as an operator starts it."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from _store.processes import PYTHON, ROOT, free_port, http_ready

from _stream.supervised import Service
from forecache.base.settings import Settings

PROJECTS = Path(__file__).parent / "project"
COMMAND = (PYTHON, "-m", "forecache.cli.main")


def environment_of(settings: Settings, brokers: str, **others: str) -> dict[str, str]:
    """What the processes of a home are started with."""
    return {
        "FORECACHE_HOME": str(settings.home_path),
        "FORECACHE_PROJECT": settings.project,
        "FORECACHE_KAFKA_BROKERS": brokers,
        "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(PROJECTS)]),
        **others,
    }


def engine(settings: Settings, stream: str, environment: Mapping[str, str]) -> Service:
    """`forecache stream NAME`."""
    return Service("engine", [*COMMAND, "stream", stream], settings.home_path / "engine.log", environment)


def tailer(settings: Settings, stream: str, environment: Mapping[str, str]) -> Service:
    """`forecache stream tail NAME`."""
    return Service("tailer", [*COMMAND, "stream", "tail", stream], settings.home_path / "tailer.log", environment)


def forecache(environment: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `forecache ARGUMENTS` to its end; its exit code is for the caller to judge."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip


class Reader:
    """`forecache serve` with one worker.

    Attributes:
        port: Where it listens.
        service: Its process.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        arguments = ["serve", "--host", "127.0.0.1", "--port", self.port, "--workers", "1"]
        command = [*COMMAND, *map(str, arguments)]
        self.service = Service("reader", command, settings.home_path / "reader.log", environment)
        self.listens = http_ready(f"http://127.0.0.1:{self.port}/healthz")
        self.is_ready = http_ready(f"http://127.0.0.1:{self.port}/readyz")
