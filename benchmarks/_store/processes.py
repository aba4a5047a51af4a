"""Child processes: started in a session of their own, held to given cores, stopped whole, and their memory watched."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from _common.memory import high_water_bytes, watching

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"
FEAST = ROOT / ".tools" / "feast" / "bin"
SERVER_CORE, OTHER_CORE = 0, 1
SETTINGS = ("default", "one core")
"""How servers are run: as they come, or held to one core with the load generator on another."""

_START_S = 180.0
_STOP_S = 15.0


class BenchmarkError(Exception):
    """A measurement could not be made; the message says which and why."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_core(command: Sequence[str | Path], core: int | None) -> list[str]:
    """The command, held to one core where one is named."""
    prefix = [] if core is None else ["taskset", "-c", str(core)]
    return [*prefix, *map(str, command)]


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    *,
    log: Path,
    ready: Callable[[], bool],
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> Iterator[int]:
    """A server while the block runs; yields its process id once `ready()` is true."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as output:
        process = subprocess.Popen(
            on_core(command, core),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_S
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                raise BenchmarkError(f"{' '.join(map(str, command))[:200]} did not start. Its log ends:\n{tail}")
            time.sleep(0.1)
        yield process.pid
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the process, then SIGKILL to what is left of its tree."""
    tree = []
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    if process.poll() is None:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(tree, timeout=3)
    for child in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def http_ready(url: str) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return ready


def run_checked(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    log: Path | None = None,
    stdin: IO[bytes] | None = None,
) -> str:
    """Run a command to its end; its standard output.

    Raises:
        BenchmarkError: It failed; the message ends with what it said.
    """
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=stdin or subprocess.DEVNULL,
        check=False,
    )
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(done.stderr + done.stdout)
    if done.returncode != 0:
        tail = "\n".join((done.stderr + done.stdout).splitlines()[-15:])
        raise BenchmarkError(f"{' '.join(map(str, command))[:200]} failed with {done.returncode}:\n{tail}")
    return done.stdout


@dataclass
class PeakMemory:
    """Largest memory of a process tree, in bytes.

    Attributes:
        high_water: The sum of every process's VmHWM, as the kernel keeps it: no spike is missed, pages of files count
            in every process that maps them, and peaks at different times are added up. No less than what was needed.
        resident: The largest sum at one of the moments that were looked at.
        anonymous: The same without pages of files, which the kernel can drop.
    """

    high_water: int = 0
    resident: int = 0
    anonymous: int = 0
    processes: int = 0


@contextlib.contextmanager
def watch_memory(every_s: float = 0.02) -> Iterator[PeakMemory]:
    """Watch the children of this process and theirs while the block runs."""
    peak = PeakMemory()
    marks: dict[int, int] = {}
    me = psutil.Process()

    def look() -> None:
        resident = anonymous = count = 0
        for process in me.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                memory = process.memory_info()
                resident += memory.rss
                anonymous += memory.rss - memory.shared
                count += 1
                marks[process.pid] = max(marks.get(process.pid, 0), high_water_bytes(process.pid))
        peak.resident, peak.anonymous = max(peak.resident, resident), max(peak.anonymous, anonymous)
        peak.processes = max(peak.processes, count)
        peak.high_water = sum(marks.values())

    with watching(look, every_s=every_s):
        yield peak
