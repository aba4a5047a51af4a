"""Feast's repository of the benchmark: `apply` and `materialize` of two views, and timed look-ups.

Usage: python feast_repository.py load FOLDER        of every .parquet file in it a view, of the file's name
       python feast_repository.py look FOLDER KEYS CALLS
"""

import json
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

SIZES = {"household": ("h{}", 8), "product": ("p{:02}", 24), "wide": ("w{:02}", 32)}


def names(view):
    pattern, size = SIZES[view]
    return [pattern.format(number) for number in range(size)]


def load(folder):
    store = FeatureStore(str(folder))
    for file in sorted(folder.glob("*.parquet")):
        name = file.stem
        entity = Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
        source = FileSource(path=str(file), timestamp_field="event_timestamp")
        schema = [Field(name=each, dtype=Float32) for each in names(name)]
        store.apply([entity, FeatureView(name=name, entities=[entity], schema=schema, source=source, ttl=timedelta(0))])
    started = time.perf_counter()
    store.materialize(datetime(2020, 1, 1, tzinfo=timezone.utc), datetime.now(timezone.utc))
    return {"seconds": time.perf_counter() - started}


def look(folder, keys, calls):
    store = FeatureStore(str(folder))
    wanted = [f"wide:{name}" for name in names("wide")]
    rng, took = np.random.default_rng(5), []
    for number in range(calls + 20):
        rows = [{"wide_id": int(each)} for each in rng.integers(0, keys, 50)]
        started = time.perf_counter_ns()
        found = store.get_online_features(wanted, rows).to_dict()
        _ = np.array([found[name] for name in names("wide")], np.float32).T
        if number >= 20:
            took.append(time.perf_counter_ns() - started)
    return {"nanoseconds": took}


if __name__ == "__main__":
    command, place = sys.argv[1], Path(sys.argv[2])
    result = load(place) if command == "load" else look(place, *map(int, sys.argv[3:]))
    print("RESULT " + json.dumps(result))
