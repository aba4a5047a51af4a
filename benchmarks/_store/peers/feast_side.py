"""The part that runs in Feast's own environment: a feature repository, loading it, and reading it in process.

Usage: python feast_side.py apply REPOSITORY PARQUET
       python feast_side.py materialize REPOSITORY START END      prints {"seconds": ...} of the call alone
       python feast_side.py get REPOSITORY NUM_KEYS CALLS SEED    prints nanoseconds of single-key reads
"""

import json
import random
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

FIELDS = ("churn_probability", "expected_spend", "expected_orders", "risk_segment")


def apply(repository: str, parquet: str) -> dict[str, Any]:
    from datetime import timedelta

    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Float64, String
    from feast.value_type import ValueType

    store = FeatureStore(repo_path=repository)
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="churn",
        entities=[customer],
        ttl=timedelta(0),
        schema=[
            Field(name="customer_id", dtype=String),
            *(Field(name=name, dtype=Float64) for name in FIELDS[:3]),
            Field(name=FIELDS[3], dtype=String),
        ],
        source=FileSource(path=str(Path(parquet).resolve()), timestamp_field="event_timestamp"),
        online=True,
    )
    store.apply([customer, view])
    return {}


def materialize(repository: str, start: str, end: str) -> dict[str, Any]:
    from feast import FeatureStore

    store = FeatureStore(repo_path=repository)
    moments = [datetime.fromisoformat(text).replace(tzinfo=timezone.utc) for text in (start, end)]
    started = time.perf_counter()
    store.materialize(*moments)
    return {"seconds": time.perf_counter() - started}


def get(repository: str, num_keys: str, calls: str, seed: str) -> dict[str, Any]:
    from feast import FeatureStore

    store = FeatureStore(repo_path=repository)
    features = [f"churn:{name}" for name in FIELDS]
    chosen = random.Random(int(seed))
    nanoseconds = []
    warm_up = 20
    for _ in range(int(calls) + warm_up):
        entity = [{"customer_id": f"{chosen.randrange(int(num_keys)):08d}"}]
        started = time.perf_counter_ns()
        answer = store.get_online_features(features=features, entity_rows=entity)
        nanoseconds.append(time.perf_counter_ns() - started)
        assert answer.to_dict()["risk_segment"][0] is not None, entity
    return {"nanoseconds": nanoseconds[warm_up:]}


if __name__ == "__main__":
    result = {"apply": apply, "materialize": materialize, "get": get}[sys.argv[1]](*sys.argv[2:])
    print("RESULT " + json.dumps(result))
