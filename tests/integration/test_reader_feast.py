"""The real Feast SDK, unchanged, reads from the reader through its remote online store."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from list_tables import SERVED, top
from reader_support import RunningReader, churn_rows, running_reader, write_version
from view_tables import features, household, write_features

from forecache.base.settings import PROJECT_ROOT, load_settings
from forecache.serve.store import Field, KeyColumn, KeySchema, publish

ROWS = churn_rows(300) | {"nulls": {"churn_probability": None, "risk_segment": "low"}}
LISTS = {"items": top(3), "vector": [0.5, -0.25], "tags": ["a", "sjö"]}
PYTHON = PROJECT_ROOT / ".tools" / "feast" / "bin" / "python"

SDK = """
import json, sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.remote import RemoteOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, Float64, Int64, String

url, folder = sys.argv[1], Path(sys.argv[2])
config = RepoConfig(
    project="forecache", provider="local", registry=str(folder / "registry.db"), entity_key_serialization_version=3,
    online_store={"type": "remote", "path": url}, offline_store={"type": "file"},
)
source = folder / "none.parquet"
pd.DataFrame({"customer_id": ["x"], "user": [1], "churn_probability": [0.1], "risk_segment": ["a"], "amount": [1],
              "items": ["[]"], "vector": [[0.5]], "tags": [["a"]],
              "store": ["a"], "household_id": [1], "spend": [0.1], "visits": [1], "taste": [[0.5]],
              "event_timestamp": [pd.Timestamp("2026-01-01", tz="UTC")]}).to_parquet(source)
file = FileSource(path=str(source), timestamp_field="event_timestamp")
customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
churn = FeatureView(name="churn", entities=[customer], ttl=timedelta(0), source=file, schema=[
    Field(name="customer_id", dtype=String), Field(name="churn_probability", dtype=Float64),
    Field(name="risk_segment", dtype=String)])
spend = FeatureView(name="spend", entities=[user], ttl=timedelta(0), source=file, schema=[
    Field(name="user", dtype=Int64), Field(name="amount", dtype=Int64)])
store = FeatureStore(config=config)
lists = FeatureView(name="lists", entities=[customer], ttl=timedelta(0), source=file, schema=[
    Field(name="customer_id", dtype=String), Field(name="items", dtype=String),
    Field(name="vector", dtype=Array(Float32)), Field(name="tags", dtype=Array(String))])
at, home = (Entity(name=name, join_keys=[name], value_type=kind)
            for name, kind in (("store", ValueType.STRING), ("household_id", ValueType.INT64)))
household = FeatureView(name="household", entities=[at, home], ttl=timedelta(0), source=file, schema=[
    Field(name="store", dtype=String), Field(name="household_id", dtype=Int64),
    Field(name="spend", dtype=Float32), Field(name="visits", dtype=Int64), Field(name="taste", dtype=Array(Float32))])
store.apply([customer, user, at, home, churn, spend, lists, household, FeatureService(name="churn", features=[churn])])

out = {}
def ask(features, rows, **options):
    return store.get_online_features(features=features, entity_rows=rows, **options).to_dict()

rows = [{"customer_id": key} for key in ("00042", "nobody", "nulls", "00007")]
out["some"] = ask(["churn:churn_probability", "churn:risk_segment"], rows)
out["full"] = ask(["churn:risk_segment"], rows, full_feature_names=True)
out["service"] = ask(store.get_feature_service("churn"), rows)
out["integers"] = ask(["spend:amount"], [{"user": 7}, {"user": 8}])
out["lists"] = ask(["lists:items", "lists:vector", "lists:tags"], [{"customer_id": key} for key in ("a", "nobody")])
out["view"] = ask(["household:spend", "household:visits", "household:taste"],
                  [{"store": "a|b", "household_id": 7}, {"store": "nobody", "household_id": 1}])
out["many"] = ask(["churn:churn_probability"], [{"customer_id": f"{i:05d}"} for i in range(300)])
try:
    ask(["unknown:x"], rows)
except Exception as error:
    out["unknown"] = str(error)

keys = [EntityKey(join_keys=["customer_id"], entity_values=[Value(string_val=key)]) for key in ("00042", "nobody")]
read = RemoteOnlineStore().online_read(config, churn, keys, ["churn_probability", "risk_segment"])
out["read"] = [[str(moment), {name: (value.WhichOneof("val") or "", value.double_val, value.string_val)
                              for name, value in row.items()}] for moment, row in read]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def feast_python() -> Path:
    made = subprocess.run(
        ["bash", "benchmarks/peers_env.sh", "feast"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"benchmarks/peers_env.sh could not install Feast: {made.stderr[-300:]}")
    return PYTHON


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    settings = load_settings(home=tmp_path_factory.mktemp("reader"))
    write_version(settings.store_path, "churn", ROWS)
    key = KeySchema((KeyColumn("user", "int"),))
    write_version(settings.store_path, "spend", {7: {"amount": 12}}, key=key, fields=(Field("amount", "bigint"),))
    write_version(settings.store_path, "lists", {"a": LISTS}, fields=tuple(Field(name, SERVED[name]) for name in LISTS))
    write_features(settings, features({("a|b", 7): (0.1, 3, [1.5, 0.25, -0.0])}))
    publish(settings, household())
    with running_reader(settings) as running:
        yield running


@pytest.fixture(scope="module")
def said(feast_python: Path, reader: RunningReader, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("feast")
    script = folder / "sdk.py"
    script.write_text(SDK)
    run = subprocess.run(
        [str(feast_python), str(script), reader.url, str(folder)],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "FEAST_USAGE": "False"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    answers: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answers


@pytest.mark.slow
def test_features_come_through_the_sdk(said: dict[str, Any]) -> None:
    expected = [ROWS["00042"]["churn_probability"], None, None, ROWS["00007"]["churn_probability"]]
    assert said["some"] == {
        "customer_id": ["00042", "nobody", "nulls", "00007"],
        "churn_probability": expected,
        "risk_segment": [ROWS["00042"]["risk_segment"], None, "low", ROWS["00007"]["risk_segment"]],
    }
    assert said["full"]["churn__risk_segment"] == said["some"]["risk_segment"]
    assert said["service"] == said["some"]
    assert said["integers"] == {"user": [7, 8], "amount": [12, None]}
    assert said["many"]["churn_probability"] == [ROWS[f"{i:05d}"]["churn_probability"] for i in range(300)]


@pytest.mark.slow
def test_lists_come_through_the_sdk_those_of_structures_as_the_text_of_their_json(said: dict[str, Any]) -> None:
    text, missing = said["lists"]["items"]
    assert (json.loads(text), missing) == (LISTS["items"], None)
    assert said["lists"]["vector"] == [LISTS["vector"], None]
    assert said["lists"]["tags"] == [LISTS["tags"], None]


@pytest.mark.slow
def test_a_published_view_comes_through_the_sdk(said: dict[str, Any]) -> None:
    view = said["view"]
    assert view["spend"] == [pytest.approx(0.1, rel=1e-7), None]
    assert (view["visits"], view["taste"]) == ([3, None], [[1.5, 0.25, -0.0], None])


@pytest.mark.slow
def test_the_remote_online_store_reads_typed_values(said: dict[str, Any]) -> None:
    (moment, found), (_, missing) = said["read"]
    assert found == {
        "churn_probability": ["double_val", ROWS["00042"]["churn_probability"], ""],
        "risk_segment": ["string_val", 0.0, ROWS["00042"]["risk_segment"]],
    }
    assert missing == {"churn_probability": ["", 0.0, ""], "risk_segment": ["", 0.0, ""]}
    assert moment.endswith("00:00:00+00:00")


@pytest.mark.slow
def test_an_error_reaches_the_caller_in_words(said: dict[str, Any]) -> None:
    assert "There is no pipeline or real-time model 'unknown'" in said["unknown"]
