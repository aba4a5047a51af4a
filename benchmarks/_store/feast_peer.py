"""Feast 0.67 as a peer: its environment, its repositories on SQLite and on Redis, loading, and its feature server."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from _store import rows
from _store.processes import FEAST, ROOT, BenchmarkError, free_port, http_ready, run_checked, running
from _store.progress import say

ENVIRONMENT = {"FEAST_USAGE": "False", "PYTHONWARNINGS": "ignore"}
ONLINE_STORES = ("sqlite", "redis")
_SIDE = Path(__file__).parent / "peers" / "feast_side.py"
_BATCH_ROWS = 10_000


def ensure_environment() -> None:
    """Install Feast into an environment of its own, and the other peers, at pinned versions, where they are missing."""
    run_checked(["bash", ROOT / "benchmarks" / "peers_env.sh"])


class Repository:
    """A Feast feature repository with one online store. On Redis, `redis()` has to be entered around any use."""

    def __init__(self, folder: Path, online_store: str, *, batch_rows: int | None = _BATCH_ROWS, dedup: bool = False):
        self.folder = folder
        self.online_store = online_store
        self.batch_rows = batch_rows
        self.dedup = dedup
        self._parquet = folder / "rows.parquet"
        self._port = 0

    def write_rows(self, table_rows: Iterator[pa.RecordBatch], night: date, limit: int) -> None:
        """The offline source: the prediction table's rows with the as-of date as event time."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        moment = np.datetime64(night + timedelta(days=1), "us")
        left, parts = limit, []
        for batch in table_rows:
            taken = pa.Table.from_batches([batch.slice(0, left)]).select([rows.KEY, *rows.FIELDS])
            stamps = pa.array(np.full(len(taken), moment), pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
            parts.append(taken.append_column("event_timestamp", stamps))
            left -= len(taken)
            if left <= 0:
                break
        pq.write_table(pa.concat_tables(parts), self._parquet)

    def _write_settings(self) -> None:
        if self.online_store == "sqlite":
            online: dict[str, Any] = {"type": "sqlite", "path": "online.db"}
        else:
            online = {"type": "redis", "connection_string": f"127.0.0.1:{self._port}", "skip_dedup": not self.dedup}
        settings: dict[str, Any] = {
            "project": "bench",
            "provider": "local",
            "registry": {"path": "registry.db", "cache_ttl_seconds": 86_400},
            "online_store": online,
            "offline_store": {"type": "file"},
            "entity_key_serialization_version": 3,
        }
        if self.batch_rows is not None:
            settings["materialization"] = {"online_write_batch_size": self.batch_rows}
        # JSON is YAML.
        (self.folder / "feature_store.yaml").write_text(json.dumps(settings, indent=1))

    @contextlib.contextmanager
    def redis(self) -> Iterator[None]:
        """The online store's server while the block runs; nothing to do on SQLite."""
        if self.online_store != "redis":
            self._write_settings()
            yield
            return
        self._port = free_port()
        self._write_settings()
        with redis_server(self.folder, self._port):
            yield

    def _side(self, *arguments: object) -> dict[str, Any]:
        command = [FEAST / "python", _SIDE, *map(str, arguments)]
        output = run_checked(command, environment=ENVIRONMENT, cwd=self.folder, log=self.folder / "feast.log")
        line = next(line for line in reversed(output.splitlines()) if line.startswith("RESULT "))
        result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
        return result

    def apply(self) -> None:
        self._side("apply", self.folder, self._parquet)

    def materialize(self, night: date) -> float:
        """`FeatureStore.materialize` of all rows; seconds of the call, without Feast's start."""
        seconds: float = self._side("materialize", self.folder, night, night + timedelta(days=2))["seconds"]
        return seconds

    def get_ns(self, num_keys: int, calls: int, seed: int) -> list[int]:
        """Nanoseconds of single-key reads through the Feast SDK in one process."""
        found: list[int] = self._side("get", self.folder, num_keys, calls, seed)["nanoseconds"]
        return found

    def redis_keys(self) -> int:
        """How many keys Redis holds."""
        return int(run_checked(["redis-cli", "-p", self._port, "dbsize"]))

    def save_redis(self) -> None:
        """Write Redis's content to the folder, from where the next `redis()` loads it."""
        run_checked(["redis-cli", "-p", self._port, "save"])

    @contextlib.contextmanager
    def server(self, port: int, core: int | None, workers: int = 1) -> Iterator[int]:
        """`feast serve` without access log, that never restarts its workers."""
        command = [
            FEAST / "feast", "serve", "--host", "127.0.0.1", "--port", port, "--workers", workers, "--no-access-log",
            "--max-requests", 0, "--max-requests-jitter", 0, "--registry_ttl_sec", 86_400,
        ]  # fmt: skip
        with running(
            list(map(str, command)),
            log=self.folder / "serve.log",
            ready=http_ready(f"http://127.0.0.1:{port}/health"),
            core=core,
            environment=ENVIRONMENT,
            cwd=self.folder,
        ) as pid:
            yield pid


@contextlib.contextmanager
def redis_server(folder: Path, port: int, core: int | None = None) -> Iterator[int]:
    """A redis-server that keeps everything in memory and writes nothing unless told to."""
    command = [
        "redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", folder, "--save", "", "--appendonly", "no",
    ]  # fmt: skip

    def ready() -> bool:
        try:
            return "PONG" in run_checked(["redis-cli", "-p", port, "ping"])
        except BenchmarkError:
            return False

    with running(list(map(str, command)), log=folder / "redis.log", ready=ready, core=core) as pid:
        yield pid


def loaded(folder: Path, online_store: str, num_keys: int) -> Repository:
    """A repository whose online store holds the first night's rows of `num_keys` keys; loaded once, then kept."""
    repository = Repository(folder / f"feast-{online_store}-{num_keys}", online_store)
    stamp = repository.folder / "loaded.json"
    done = json.loads(stamp.read_text()) if stamp.exists() else {}
    if done.get("data_version") != rows.DATA_VERSION:
        say(f"loading {num_keys:,} rows into Feast's {online_store} online store (once: they are kept)")
        zeros = np.zeros(num_keys, np.uint16)
        repository.write_rows(rows.night_batches(zeros, rows.FIRST_NIGHT), rows.FIRST_NIGHT, num_keys)
        with repository.redis():
            repository.apply()
            seconds = repository.materialize(rows.FIRST_NIGHT)
            if online_store == "redis":
                repository.save_redis()
        stamp.write_text(json.dumps({"data_version": rows.DATA_VERSION, "rows": num_keys, "seconds": seconds}))
    return repository
