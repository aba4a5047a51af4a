"""The machine and the versions that a figure was measured on, and how busy others kept it meanwhile."""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from typing import Any

import psutil
from _processor import processor_name

from _store.processes import FEAST, ROOT

_PACKAGES = ("granian", "lmdb", "orjson", "uvicorn", "uvloop", "httptools", "fastapi", "pyarrow", "deltalake", "redis")


def describe() -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "feast": _feast_versions(),
        "wrk": _first_line(["wrk", "--version"]),
        "redis_server": _first_line(["redis-server", "--version"]),
        "commit": _first_line(["git", "rev-parse", "--short", "HEAD"]),
    }


def _feast_versions() -> dict[str, str]:
    code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in ('feast', 'uvicorn')}))"
    done = subprocess.run([FEAST / "python", "-c", code], capture_output=True, text=True, check=False)
    versions: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else {}
    return versions


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def moment() -> dict[str, Any]:
    """When a pass of a section began and what the machine was doing: busy share of a second in which we slept."""
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "busy_share": round(psutil.cpu_percent(interval=1.0) / 100, 3),
        "load_average": round(os.getloadavg()[0], 2),
        "loop_ms": round(_loop_ms(), 2),
    }


def _loop_ms() -> float:
    """A fixed piece of Python, the best of five: tells a slower processor from a slower program."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        total = 0
        for value in range(200_000):
            total += value
        best = min(best, time.perf_counter() - started)
    return best * 1e3
