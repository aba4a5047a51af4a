"""The peers' features: packed float32 in Redis, and Feast's own way in Feast's Redis."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _store.backends import pipe
from _store.feast_peer import ENVIRONMENT, redis_server
from _store.processes import ROOT, free_port, run_checked, running
from _store.progress import say

from _realtime import case

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = ROOT / ".tools" / "realtime"
NAMES = ("fastapi", "bento", "mlserver", "kserve", "feast")
VIEWS = {
    "household": (case.HOUSEHOLD, case.HOUSEHOLD_FEATURES, b"h:%d"),
    "product": (case.PRODUCT, case.PRODUCT_FEATURES, b"p:%d"),
    "wide": ("wide_id", case.WIDE_FEATURES, b"w:%d"),
}
_CHUNK = 100_000
_DECISIVE = (
    "fastapi", "uvicorn", "uvloop", "httptools", "orjson", "redis", "hiredis", "bentoml", "mlserver", "kserve", "feast",
    "onnxruntime", "lightgbm", "numpy",
)  # fmt: skip


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment."""
    return ENVIRONMENTS / name / "bin" / "python"


def install(*names: str) -> None:
    """Install peers into environments of their own, at pinned versions; again at no cost."""
    run_checked(["bash", ROOT / "benchmarks" / "peers_env.sh", *(f"realtime_{name}" for name in names)])


def versions_of(name: str) -> dict[str, str]:
    """The pinned versions of what decides about a peer's speed."""
    lines = (PEERS / f"{name}-requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    return {each: pinned[each] for each in _DECISIVE if each in pinned}


@contextlib.contextmanager
def redis(folder: Path, views: dict[str, int], core: int | None) -> Iterator[str]:
    """Redis on a Unix socket with the features of so many keys of each view; yields the socket."""
    folder.mkdir(parents=True, exist_ok=True)
    socket = folder / "redis.sock"
    command = [
        "redis-server",
        "--port",
        "0",
        "--unixsocket",
        socket,
        "--dir",
        folder,
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    with running(list(map(str, command)), log=folder / "redis.log", ready=socket.exists, core=core):
        for view, keys in views.items():
            load_redis(folder, str(socket), view, keys)
        yield str(socket)
    socket.unlink(missing_ok=True)


def load_redis(folder: Path, socket: str, view: str, keys: int) -> None:
    """Write a view's features through `redis-cli --pipe`."""
    key, names, pattern = VIEWS[view]
    file = folder / "load.redis"
    size = 4 * len(names)
    with open(file, "wb") as commands:
        for first in range(0, keys, _CHUNK):
            ids = np.arange(first, min(first + _CHUNK, keys))
            rows = case.features_of(key, ids, len(names)).tobytes()
            for place, each in enumerate(ids.tolist()):
                name = pattern % each
                value = rows[place * size : (place + 1) * size]
                commands.write(b"*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(name), name, size, value))
    pipe(socket, file)
    file.unlink()


@contextlib.contextmanager
def feast(folder: Path, views: dict[str, int], core: int | None) -> Iterator[Path]:
    """Feast's repository with these views in its online store on Redis, which runs; loaded once, then kept."""
    repository = folder / ("feast-" + "-".join(f"{view}{keys}" for view, keys in views.items()))
    stamp, port = repository / "loaded.json", free_port()
    if not stamp.exists():
        shutil.rmtree(repository, ignore_errors=True)
        repository.mkdir(parents=True)
    settings = {
        "project": "bench",
        "provider": "local",
        "registry": {"path": "registry.db", "cache_ttl_seconds": 86_400},
        "online_store": {"type": "redis", "connection_string": f"127.0.0.1:{port}", "skip_dedup": True},
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
        "materialization": {"online_write_batch_size": 10_000},
    }
    (repository / "feature_store.yaml").write_text(json.dumps(settings, indent=1))  # JSON is YAML.
    with redis_server(repository, port, core):
        if not stamp.exists():
            say(f"loading {sum(views.values()):,} rows into Feast's online store on Redis (once: they are kept)")
            for view, keys in views.items():
                _write_parquet(repository, view, keys)
            stamp_text = feast_side("load", repository)
            run_checked(["redis-cli", "-p", port, "save"])
            stamp.write_text(json.dumps(stamp_text))
        yield repository


def feast_side(*arguments: object) -> dict[str, object]:
    """What a run of feast_repository.py in Feast's environment says."""
    command = [python_of("feast"), PEERS / "feast_repository.py", *map(str, arguments)]
    output = run_checked(command, environment=ENVIRONMENT)
    line = next(line for line in reversed(output.splitlines()) if line.startswith("RESULT "))
    found: dict[str, object] = json.loads(line.removeprefix("RESULT "))
    return found


def _write_parquet(repository: Path, view: str, keys: int) -> None:
    key, names, _ = VIEWS[view]
    ids = np.arange(keys)
    matrix = case.features_of(key, ids, len(names))
    moment = pa.array([datetime(2026, 1, 1, tzinfo=timezone.utc)] * keys, pa.timestamp("us", "UTC"))
    columns = {key: ids, **{name: matrix[:, place] for place, name in enumerate(names)}, "event_timestamp": moment}
    pq.write_table(pa.table(columns), repository / f"{view}.parquet")
