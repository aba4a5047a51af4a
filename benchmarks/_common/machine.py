"""The circumstances of a section, taken when it begins: processor, commit, load, how busy others keep the machine."""

import json
import os
import platform
import re
import subprocess
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
BUSY = 0.1
"""Share of the machine that others may use before the table says that it was not quiet."""

_PACKAGES = (
    "granian", "lmdb", "orjson", "uvicorn", "fastapi", "pyarrow", "deltalake", "redis", "pyspark", "delta-spark",
    "mlflow", "onnxruntime", "lightgbm", "torch", "duckdb", "scipy", "implicit",
)  # fmt: skip
_NOT_CODE = (
    "benchmarks/results/",
    "docs/choose.md",
    "docs/explanation/benchmarks.md",
    "docs/images/benchmarks/",
    "README.md",
)


def circumstances() -> dict[str, Any]:
    """Where, when and on which commit a section is measured, and what others do on the machine meanwhile."""
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {**_versions(), **_peer_versions()},
        "commit": commit(),
        "busy_share": round(psutil.cpu_percent(interval=1.0) / 100, 3),
        "load_average": round(os.getloadavg()[0], 2),
        "loop_ms": round(_loop_ms(), 2),
    }


def processor_name() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.processor()


def commit() -> str:
    """The commit that is checked out, with `+dirty` where a tracked file that is not a result differs from it."""
    name = _output(["git", "rev-parse", "--short=10", "HEAD"])
    changed = [line[3:] for line in _output(["git", "status", "--porcelain", "-uno"]).splitlines()]
    dirty = any(not path.startswith(_NOT_CODE) for path in changed)
    return f"{name}+dirty" if dirty else name


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.rstrip()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _peer_versions() -> dict[str, str]:
    """Versions of the peers' packages, in environments of their own, and of the programs."""
    lines = [
        line
        for name in ("feast", "peers")
        for line in (ROOT / "benchmarks" / f"{name}-requirements.txt").read_text().splitlines()
    ]
    wanted = ("feast", "asyncpg", "hiredis", "rocksdict", "polars", "litdata")
    pinned = dict(line.split("==", 1) for line in lines if "==" in line and line.split("==")[0] in wanted)
    return {name: text.split()[0] for name, text in pinned.items()}


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


def warnings(name: str, section: dict[str, Any]) -> list[str]:
    """What a reader of a section's figures has to know: small sizes, a busy machine, moved code, failed requests."""
    found = []
    if section["size"] != "full":
        found.append(f"`{name}` was measured at small sizes, to try the benchmark: its figures mean nothing.")
    moments = moments_of(section)
    busy = max(each["busy_share"] for each in moments)
    if busy > BUSY:
        found.append(f"The machine was not quiet before `{name}`: others used {busy:.0%} of it.")
    for what, many in (("commit", "commits"), ("processor", "processors")):
        values = sorted({each[what] for each in moments})
        if len(values) > 1:
            found.append(f"`{name}` was measured on several {many}: {', '.join(values)}.")
    if any(each["commit"].endswith("+dirty") for each in moments):
        found.append(f"`{name}` was measured with changes that are not committed.")
    return [*found, *section.get("warnings", [])]


def moments_of(section: dict[str, Any]) -> list[dict[str, Any]]:
    """The circumstances of a section, one for each pass that it has."""
    if "passes" in section:
        return [each["machine"] for each in section["passes"]]
    return [section["machine"]]


def line_of(section: dict[str, Any]) -> str:
    """When and where a section was measured, in a line."""
    moments = moments_of(section)
    first = moments[0]
    loads = ", ".join(f"{each['load_average']:g}" for each in moments)
    return (
        f"Commit {first['commit']}, {first['at'][:16].replace('T', ' ')} UTC, {first['processor']}, {first['cores']} "
        f"cores, load average before {'it' if len(moments) == 1 else 'each pass'} {loads}."
    )


def dump(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")
