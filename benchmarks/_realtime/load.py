"""The open-loop load: builds the generator, writes its requests, and reads what became of each of them."""

import functools
import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _common.rows import NEVER
from _store.processes import OTHER_CORE, ROOT, BenchmarkError, free_port, on_core

PROGRAM = ROOT / ".tools" / "bin" / "openload"
_SOURCE = Path(__file__).parent / "openload"
_RECORD = np.dtype([("due", "<i8"), ("sent", "<i8"), ("done", "<i8"), ("status", "<i4"), ("class", "<i4")])
_STAMP = "X-Request-Start: t=0000000000000000\r\n"
NO_ANSWER, BROKEN, NOT_HTTP = 0, -1, -2


@dataclass(frozen=True)
class Load:
    """What became of every request of a run, arrays by number of the request.

    Attributes:
        due_s, sent_s, done_s: Seconds since the start.
        status: HTTP status, 0: no answer came, -1: the connection broke, -2: no HTTP that the generator reads.
        classes: int32 [n], index into `names`: a piece of the answer's body.
    """

    rate: float
    due_s: np.ndarray
    sent_s: np.ndarray
    done_s: np.ndarray
    status: np.ndarray
    classes: np.ndarray
    names: list[str]
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def latency_ms(self) -> np.ndarray:
        """From when each was due to its answer; infinite where none came."""
        return np.where(self.status > 0, (self.done_s - self.due_s) * 1e3, np.inf)

    @property
    def failed(self) -> int:
        """Requests without an answer of status 200."""
        return int((self.status != 200).sum())

    def share(self, text: str) -> float:
        """Of all requests, those whose class holds this text."""
        wanted = [number for number, name in enumerate(self.names) if text in name]
        return float(np.isin(self.classes, wanted).mean())

    def with_class(self, text: str) -> np.ndarray:
        """bool [n]: whether the class of the answer holds this text."""
        return np.isin(self.classes, [number for number, name in enumerate(self.names) if text in name])

    def figures(self) -> dict[str, Any]:
        """Quantiles in ms, statuses, classes and what the generator says of itself, for a result file."""
        latency = self.latency_ms
        statuses, counts = np.unique(self.status, return_counts=True)
        quantiles = np.quantile(latency, [0.5, 0.9, 0.99, 0.999, 1.0], method="higher")
        late = np.quantile((self.sent_s - self.due_s) * 1e3, [0.99, 0.999])
        return {
            "rate": self.rate,
            "requests": len(latency),
            "failed": self.failed,
            **dict(zip(("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"), map(_finite, quantiles), strict=True)),
            "statuses": {str(status): int(count) for status, count in zip(statuses, counts, strict=True)},
            "classes": {name: int((self.classes == number).sum()) for number, name in enumerate(self.names)},
            "late_p99_ms": float(late[0]),
            "late_p999_ms": float(late[1]),
            "connections": self.summary["connections"],
            "generator_cpu_s": self.summary["cpu_seconds"],
            "problem": self.summary["problem"][:500],
        }


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else NEVER


@functools.cache
def program() -> Path:
    """The generator, built where its source is newer.

    Raises:
        BenchmarkError: There is no Go compiler, or it fails.
    """
    newest = max(path.stat().st_mtime for path in _SOURCE.iterdir())
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < newest:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        own = PROGRAM.with_name(f"{PROGRAM.name}.{os.getpid()}")  # another process may build it, or run it, meanwhile
        build = ["go", "build", "-o", str(own), "."]
        done = subprocess.run(build, cwd=_SOURCE, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(f"The load generator was not built: {done.stderr}")
        own.replace(PROGRAM)
    return PROGRAM


def write_requests(
    path: Path, bodies: Sequence[bytes | None], where: str, *, headers: str = "", stamped: bool = False
) -> Path:
    """A file of requests for the generator: a POST of each body to `where`, or a GET where it is None.

    Args:
        where: Path of the URL, `{}` in it becomes the number of the request.
        headers: Further lines, each with its end.
        stamped: Say in X-Request-Start when the request was due, as a balancer says when it came.
    """
    with open(path, "wb") as file:
        for number, body in enumerate(bodies):
            head = f"{'GET' if body is None else 'POST'} {where.format(number)} HTTP/1.1\r\nHost: bench\r\n{headers}"
            if stamped:
                head += _STAMP
            if body is not None:
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            request = head.encode() + b"\r\n" + (body or b"")
            file.write(b"%d\n" % len(request) + request)
    return path


@dataclass
class Attack:
    """A run of the generator that is under way; `wait()` gives the load."""

    process: subprocess.Popen[str]
    rate: float
    records: Path

    def wait(self) -> Load:
        output, said = self.process.communicate()
        if self.process.returncode:
            raise BenchmarkError(f"The load generator ended with {self.process.returncode}: {said[-500:]}")
        rows = np.fromfile(self.records, _RECORD)
        self.records.unlink()
        summary = json.loads(output)
        seconds = {name: rows[name] / 1e9 for name in ("due", "sent", "done")}
        return Load(
            self.rate, seconds["due"], seconds["sent"], seconds["done"], rows["status"], rows["class"],
            summary["classes"], summary,
        )  # fmt: skip


def start(
    port: int,
    requests: Path,
    *,
    rate: float,
    seconds: float,
    classes: tuple[str, str] = ("", ""),
    connections: int = 32,
    most: int = 1024,
    drain_s: float = 5.0,
    core: int | None = OTHER_CORE,
) -> Attack:
    """Begin to send requests at a constant rate, whatever the server does.

    Args:
        classes: What comes before and behind the piece of an answer's body that is its class.
        most: Connections that may be open at one time; above it requests wait while their clocks run.
    """
    records = requests.with_suffix(f".{time.monotonic_ns()}.records")
    command = [
        program(), "-port", port, "-rate", rate, "-seconds", seconds,
        "-requests", requests, "-records", records,
        "-connections", connections, "-max-connections", most, "-drain", drain_s,
        "-class-from", classes[0], "-class-to", classes[1],
    ]  # fmt: skip
    process = subprocess.Popen(
        on_core(list(map(str, command)), core), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return Attack(process, rate, records)


def run(port: int, requests: Path, **arguments: Any) -> Load:
    """A whole run, see `start`."""
    return start(port, requests, **arguments).wait()


def ceiling(folder: Path, body: bytes, rates: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """What the generator holds against a server that answers at once: figures at each rate."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    requests = write_requests(folder / "ceiling.requests", [body] * 100, "/", stamped=True)
    server = subprocess.Popen(on_core([program(), "-serve", "-port", str(port)], 0))
    try:
        time.sleep(0.3)
        return [run(port, requests, rate=rate, seconds=seconds).figures() for rate in rates]
    finally:
        server.kill()
        server.wait()
