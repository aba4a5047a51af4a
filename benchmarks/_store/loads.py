"""How fast other stores take the rows of a prediction table: `redis-cli --pipe` and PostgreSQL's COPY."""

import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from _store import backends, rows
from _store.lake import Lake
from _store.processes import BenchmarkError, run_checked
from _store.progress import say
from forecache.kit.delta.dataset import open_dataset


def measure(work: Path, num_rows: int) -> dict[str, Any]:
    """Seconds from the Delta table to a file of commands or lines, and of loading the file.

    Redis writes nothing to disk. PostgreSQL is measured with its faster durable way: COPY into a table of the same
    transaction, which needs no WAL, then the primary key. Neither compares what it holds with the source.
    """
    lake = Lake(work / f"loads-{num_rows}", num_rows)
    lake.create()
    folder = work / "backends"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return {"redis": _redis(lake, folder), "postgres": _postgres(lake, folder)}
    finally:
        shutil.rmtree(lake.home)


def _batches(lake: Lake) -> Any:
    dataset = open_dataset(DeltaTable(lake.uri))
    return dataset.to_batches(columns=[rows.KEY, *rows.FIELDS], batch_size=1 << 18)


def _redis(lake: Lake, folder: Path) -> dict[str, Any]:
    say(f"redis-cli --pipe of {lake.num_keys:,} rows")
    file = folder / "load.redis"
    started = time.perf_counter()
    with open(file, "wb") as commands:
        for batch in _batches(lake):
            table = pa.Table.from_batches([batch])
            commands.write(backends.redis_commands(batch[rows.KEY], backends.json_values(table)))
    encode_s = time.perf_counter() - started
    with backends.redis_server(folder) as socket:
        started = time.perf_counter()
        backends.pipe(socket, file)
        load_s = time.perf_counter() - started
        held = int(run_checked(["redis-cli", "-s", socket, "dbsize"]))
        _require(lake, held, "Redis")
    file.unlink()
    return {"rows": lake.num_keys, "encode_s": encode_s, "load_s": load_s}


def _postgres(lake: Lake, folder: Path) -> dict[str, Any]:
    say(f"COPY of {lake.num_keys:,} rows")
    file = folder / "load.copy"
    started = time.perf_counter()
    with open(file, "wb") as lines:
        for batch in _batches(lake):
            lines.write(backends.text_lines(batch.columns))
    encode_s = time.perf_counter() - started
    columns = ", ".join(f"{name} double precision not null" for name in rows.FIELDS[:3])
    create = f"create table loaded ({rows.KEY} text not null, {columns}, {rows.FIELDS[3]} text not null)"
    with backends.postgres_server(folder / "postgres.log") as socket:
        started = time.perf_counter()
        backends.psql(
            socket, create, f"\\copy loaded from '{file}'", f"alter table loaded add primary key ({rows.KEY})"
        )
        load_s = time.perf_counter() - started
        held = backends.psql(socket, "\\pset tuples_only on", "select count(*) from loaded")
        _require(lake, int(held), "PostgreSQL")
    file.unlink()
    return {"rows": lake.num_keys, "encode_s": encode_s, "load_s": load_s}


def _require(lake: Lake, held: int, name: str) -> None:
    if held != lake.num_keys:
        raise BenchmarkError(f"{name} holds {held:,} rows, not {lake.num_keys:,}.")
