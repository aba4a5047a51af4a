"""Reads of a store in one process, each timed; prints the outcome as JSON.

Usage: python -m _store.inprocess_job HOME NUM_KEYS GETS SEED
"""

import json
import sys
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np

from _store import rows
from forecache.base.settings import load_settings
from forecache.serve.store import Store, open_store

QUANTILES = (0.5, 0.9, 0.99, 0.999)
_CURVE = np.concatenate([np.linspace(0.0, 0.99, 100), [0.995, 0.999, 0.9999]])


def main(home: Path, num_keys: int, gets: int, seed: int) -> list[dict[str, Any]]:
    """The served version, and the oldest retained one where it has fewer segments."""
    store = open_store(load_settings(home=home), rows.NAME)
    versions = store.versions()
    chosen = [versions[0], versions[-1]] if len(versions[0].segments) < len(versions[-1].segments) else [versions[-1]]
    return [read(store, manifest.version, num_keys, gets, seed) for manifest in chosen]


def read(store: Store, version: int, num_keys: int, gets: int, seed: int) -> dict[str, Any]:
    """Random reads of keys that exist: the first ones after warming, then as many more, which are the figure."""
    rng = np.random.default_rng(seed)
    with store.snapshot(version) as snapshot:
        snapshot.warm()
        get = snapshot.get
        keys = rows.key_bytes(rng.integers(0, num_keys, gets))
        first = timed(get, keys)
        again = rows.key_bytes(rng.integers(0, num_keys, gets))
        once_more = timed(get, again)
        clock = clock_alone(again)
        started = perf_counter()
        for key in again:
            get(key)
        loop_s = perf_counter() - started
        started = perf_counter()
        found = snapshot.get_many(again)
        many_s = perf_counter() - started
        assert None not in found, "every key asked for is in the store"
        manifest = snapshot.manifest
    return {
        "keys": manifest.rows,
        "segments": len(manifest.segments),
        "shards": len(manifest.segments[0].shards),
        "store_bytes": manifest.size_bytes,
        "gets": gets,
        "clock_ns": float(np.median(clock)),
        "first_touch_ns": quantiles(first),
        "get_ns": quantiles(once_more),
        "curve": [_CURVE.tolist(), np.quantile(once_more, _CURVE).tolist()],
        "loop_ns": loop_s * 1e9 / gets,
        "get_many_ns": many_s * 1e9 / gets,
    }


def timed(get: Any, keys: list[bytes]) -> np.ndarray:
    """Nanoseconds of every get, the clock's own time included."""
    clock = perf_counter_ns
    taken = [0] * len(keys)
    for place, key in enumerate(keys):
        started = clock()
        get(key)
        taken[place] = clock() - started
    return np.array(taken)


def clock_alone(keys: list[bytes]) -> np.ndarray:
    """What `timed` measures where there is nothing to measure."""
    clock = perf_counter_ns
    taken = [0] * len(keys)
    for place, _ in enumerate(keys):
        started = clock()
        taken[place] = clock() - started
    return np.array(taken)


def quantiles(taken: np.ndarray) -> dict[str, float]:
    return {f"p{q * 100:g}": float(np.quantile(taken, q)) for q in QUANTILES} | {"max": float(taken.max())}


if __name__ == "__main__":
    outcome = main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
    print("RESULT " + json.dumps(outcome))
