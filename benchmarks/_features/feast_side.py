"""The part that runs in Feast's own environment: `REPOSITORY ROUNDS FEATURE...`; prints the seconds of each round."""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float32, Int64
from feast.value_type import ValueType


def main() -> None:
    repository, rounds, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    settings = {
        "project": "bench",
        "provider": "local",
        "registry": "registry.db",
        "offline_store": {"type": "file"},
        "online_store": {"type": "sqlite", "path": "online.db"},
        "entity_key_serialization_version": 3,
    }
    # JSON is YAML.
    (repository / "feature_store.yaml").write_text(json.dumps(settings))
    store = FeatureStore(repo_path=str(repository))
    customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.INT64)
    view = FeatureView(
        name="tiles",
        entities=[customer],
        # Feast takes an age that equals the limit.
        ttl=timedelta(days=1) - timedelta(microseconds=1),
        schema=[Field(name="customer", dtype=Int64), *(Field(name=name, dtype=Float32) for name in names)],
        source=FileSource(path=str(repository / "features.parquet"), timestamp_field="event_timestamp"),
    )
    store.apply([customer, view])
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        asked = pd.read_parquet(repository / "spine.parquet")
        found = store.get_historical_features(asked, features=[f"tiles:{name}" for name in names]).to_df()
        seconds.append(time.perf_counter() - started)
    found.to_parquet(repository / "found.parquet")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
