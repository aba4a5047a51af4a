"""Section look-ups: 50 keys of a published feature view to a matrix in this process, beside Redis's MGET.

Both are asked for the same random keys one after the other, from the numbers of a request to a float32 matrix, and
every matrix is compared with what the keys hold.
"""

import json
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from _store import backends, rows
from _store.inprocess_job import quantiles
from _store.processes import PYTHON, run_checked
from _store.progress import say
from _store.sizes import Sizes
from forecache.base.settings import Settings, load_settings
from forecache.declare import Column, Feature, Features, FeatureView, Publish, Source
from forecache.lake.ledger import StageRecord, append_records
from forecache.serve.store import open_store, publish
from forecache.serve.store.keys import encode_columns

KEYS, FEATURES = 50, 32
NAMES = tuple(f"f{number:02d}" for number in range(FEATURES))
BASE, DELTA, REDIS = "one segment", "over a small segment", "redis"
_BENCHMARKS = Path(__file__).resolve().parents[1]
_BLOCK = 200_000
_WARM = 100
_EVERY = 100


def view() -> FeatureView:
    source = Source("events", (Column("id", "bigint"), Column("at", "timestamp")), "at", start=rows.FIRST_NIGHT)
    computed = Features(compute=rows.never, columns=tuple(map(Feature, NAMES)))
    return FeatureView("wide", ("id",), (source,), computed, publish=Publish(max_psi=None, max_age_h=24 * 365 * 10))


def measure(work: Path, sizes: Sizes, number: int) -> dict[str, Any]:
    found = ensure_published(work / f"wide-{sizes.http_keys}", sizes)
    say(f"pass {number}: look-ups of {KEYS} keys with {FEATURES} features")
    calls = min(20_000, max(500, sizes.gets // KEYS))
    with backends.redis_server(work / "redis-wide") as socket:
        command = [PYTHON, "-m", "_store.lookups", work / f"wide-{sizes.http_keys}", socket, sizes.http_keys, calls,
                   number]  # fmt: skip
        output = run_checked(command, cwd=_BENCHMARKS)
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    return {**found, **json.loads(line.removeprefix("RESULT "))}


def ensure_published(home: Path, sizes: Sizes) -> dict[str, Any]:
    """A first version, and a second of which some keys are in a small segment; made once, then kept."""
    stamp = home / "published.json"
    if stamp.exists():
        kept: dict[str, Any] = json.loads(stamp.read_text())
        return kept
    shutil.rmtree(home, ignore_errors=True)
    settings, keys = load_settings(home=home), sizes.http_keys
    say(f"look-ups: publishing {keys:,} rows of {FEATURES} features")
    seconds = []
    for night in range(2):
        _write(settings, keys, night)
        started = perf_counter()
        publish(settings, view())
        seconds.append(perf_counter() - started)
    segments = [len(manifest.segments) for manifest in open_store(settings, view().name).versions()]
    assert segments == [1, 2], segments
    found = {"keys": keys, "full_s": seconds[0], "incremental_s": seconds[1]}
    stamp.write_text(json.dumps(found))
    return found


def _write(settings: Settings, keys: int, night: int) -> None:
    """A night of the feature table, and its record as of the stage."""
    table, day = view().feature_table, rows.FIRST_NIGHT + timedelta(days=night)
    uri = settings.table_uri(table)
    for start in range(0, keys, _BLOCK):
        index = np.arange(start, min(start + _BLOCK, keys))
        numbers = matrix(index, night)
        columns = {name: pa.array(numbers[:, place]) for place, name in enumerate(NAMES)}
        block = pa.table({"id": index, "as_of": pa.repeat(pa.scalar(day, pa.date32()), len(index)), **columns})
        write_deltalake(uri, block, partition_by=["as_of"], mode="append")
    version = DeltaTable(uri).version()
    append_records(settings, [StageRecord("features", view().name, day, f"night-{night}", table, version, keys, 0.0)])


def matrix(index: np.ndarray, night: int) -> np.ndarray:
    """The features of keys, float32 [n, FEATURES]; of every hundredth key they are others on the second night."""
    stamp = np.uint16(night) * (index % _EVERY == 0).astype(np.uint16)
    return np.stack([rows.uniform(index, stamp, column) for column in range(FEATURES)], axis=1)


def main(home: Path, socket: str, keys: int, calls: int, seed: int) -> dict[str, Any]:
    sys.path.append(str(backends.PEERS))  # hiredis
    import redis

    store = open_store(load_settings(home=home), view().name)
    client = redis.Redis(unix_socket_path=socket)
    for start in range(0, keys, _BLOCK):
        index = np.arange(start, min(start + _BLOCK, keys))
        content = matrix(index, 0)
        client.mset({b"w:%d" % key: row.tobytes() for key, row in zip(index.tolist(), content, strict=True)})
    with store.snapshot(1) as base, store.snapshot(2) as newer:
        for snapshot in (base, newer):
            snapshot.warm()
        schema = base.manifest.key

        def from_redis(ids: np.ndarray) -> np.ndarray:
            values = client.mget([b"w:%d" % key for key in ids.tolist()])
            return np.frombuffer(b"".join(values), "<f4").reshape(KEYS, FEATURES)

        ways = {
            BASE: lambda ids: base.matrix(encode_columns(schema, [ids]))[0],
            DELTA: lambda ids: newer.matrix(encode_columns(schema, [ids]))[0],
            REDIS: from_redis,
        }
        taken: dict[str, list[int]] = {name: [] for name in ways}
        rng = np.random.default_rng(seed)
        for call in range(calls + _WARM):
            ids = rng.integers(0, keys, KEYS)
            for name, way in ways.items():
                started = perf_counter_ns()
                found = way(ids)
                nanoseconds = perf_counter_ns() - started
                assert found.tobytes() == matrix(ids, int(name == DELTA)).tobytes(), name
                if call >= _WARM:
                    taken[name].append(nanoseconds)
    return {"calls": calls} | {name: quantiles(np.array(each)) for name, each in taken.items()}


if __name__ == "__main__":
    print("RESULT " + json.dumps(main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6]))))
