"""Lists as values, from the Delta table through a publish to what is read, compared and refused."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from list_tables import SERVED, TYPES, list_table, recommended, top
from reader_support import value_json
from store_services import redis_server
from store_tables import NEXT_NIGHT, OPEN_RULES, SCORED_AT, upsert, write_night

from forecache.base.errors import CheckError
from forecache.base.settings import Settings
from forecache.declare import Publish
from forecache.plugins.redis.versions import open_redis_store
from forecache.plugins.store_checks.compare_versions import diff_versions
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import Store, open_remote, open_store, publish, pull
from forecache.serve.store.publishing import full, incremental
from forecache.serve.store.segment import writer

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

UNICODE = [
    {"item": 'sjö\t\r\n"\\', "score": -0.5, "reason": "},{ 🥛 ]"},
    {"item": None, "score": None, "reason": None},
    None,
]
ROWS: dict[str, dict[str, Any]] = {
    "plain": {
        "items": top(3), "numbered": [{"item": 7, "score": 0.5, "reason": None}], "vector": [0.5, 0.25],
        "doubles": [0.1, 1e300], "tags": ["a", "b"], "counts": [1, -(2**63)], "flags": [True, False],
        "active": True, "orders": 12,
    },
    "nulls": {},
    "empty": {name: [] for name, kind in TYPES.items() if pa.types.is_list(kind)} | {"active": False, "orders": 0},
    "odd": {
        "items": UNICODE, "numbered": [None], "vector": [None, 1.0], "doubles": [None], "tags": [None, "", "ü\t"],
        "counts": [None], "flags": [None], "active": None, "orders": None,
    },
    "long": {"items": top(1000), "vector": [place / 8 for place in range(1000)]},
    "sjö": {"items": top(50)},
}  # fmt: skip
SHOPPERS = {f"{number:05d}": {"items": top(20, first=number)} for number in range(200)}


def expected(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in TYPES}


def served(store: Store) -> dict[str, Any]:
    """Every key and its value, read through the reader's code."""
    with store.snapshot() as snapshot:
        keys = [key for key, _ in snapshot.items()]
        return {
            key.decode(): json.loads(value or b"") for key, value in zip(keys, snapshot.get_many(keys), strict=True)
        }


def items(shoppers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {key: row["items"] for key, row in shoppers.items()}


def served_items(store: Store) -> dict[str, Any]:
    return {key: value["items"] for key, value in served(store).items()}


def with_one_score_changed() -> dict[str, dict[str, Any]]:
    changed = top(20, first=7)
    changed[13]["score"] += 2**-20
    return {**SHOPPERS, "00007": {"items": changed}}


def test_every_type_is_read_as_the_table_has_it(settings: Settings) -> None:
    write_night(settings, list_table(ROWS, columns=tuple(TYPES)))
    result = publish(settings, recommended(tuple(TYPES)))
    store = open_store(settings, "churn")
    assert {key: {name: value[name] for name in TYPES} for key, value in served(store).items()} == {
        key: expected(row) for key, row in ROWS.items()
    }
    manifest = store.current()
    assert manifest is not None
    assert {field.name: field.type for field in manifest.fields[1:]} == SERVED
    assert (result.rows, manifest.statistics["nulls"]["items"], manifest.statistics["nulls"]["vector"]) == (6, 1, 2)
    assert list(manifest.statistics["histograms"]) == ["churn_probability", "orders"]
    with store.snapshot() as snapshot:
        for key, row in ROWS.items():
            assert snapshot.get(key.encode()) == value_json({"churn_probability": 0.25, **expected(row)})
        answers = VersionAnswers(snapshot)
        for limit in (1, 10, 999, 1000):
            answer = json.loads(answers.one(b"long", (), limit) or b"")["value"]
            assert (answer["items"], len(answer["vector"])) == (top(1000)[:limit], limit)


def test_a_table_written_by_spark_is_read_the_same(settings: Settings, spark: "SparkSession") -> None:
    from forecache.kit.delta.tables import open_table

    table = list_table(SHOPPERS)
    rows = [tuple(row.values()) for row in table.to_pylist()]
    schema = (
        "customer_id string, as_of date, churn_probability double, model_name string, model_version int,"
        " feature_version bigint, scored_at timestamp, run_id string,"
        " items array<struct<item:string,score:double,reason:string>>"
    )
    frame = spark.createDataFrame(rows, schema).coalesce(1)
    frame.write.format("delta").partitionBy("as_of").save(settings.table_uri("predictions_churn"))
    publish(settings, recommended())
    first = open_store(settings, "churn").current()
    assert served_items(open_store(settings, "churn")) == items(SHOPPERS)
    written = open_table(settings, "predictions_churn").to_pyarrow_table()
    write_night(settings, table.select(written.schema.names))
    result = publish(settings, recommended())
    second = open_store(settings, "churn").current()
    assert first is not None
    assert second is not None
    assert (result.details["kind"], result.details["changed"]) == ("incremental", 0)
    assert second.content_hash == first.content_hash


@pytest.mark.parametrize("how", ["feed", "night again", "next night"])
def test_a_list_in_which_one_score_changed_travels_alone(settings: Settings, how: str) -> None:
    write_night(settings, list_table(SHOPPERS))
    publish(settings, recommended())
    changed = with_one_score_changed()
    if how == "feed":
        upsert(settings, list_table({key: changed[key] for key in ("00007", "00008")}))
    elif how == "night again":
        write_night(settings, list_table(changed))
    else:
        later = {"night": NEXT_NIGHT, "run_id": "run-2", "scored_at": SCORED_AT + timedelta(days=1)}
        write_night(settings, list_table(changed, **later), night=NEXT_NIGHT)
    details = publish(settings, recommended()).details
    assert (details["kind"], details["changed"], details["added"], details["removed"]) == ("incremental", 1, 0, 0)
    store = open_store(settings, "churn")
    assert served_items(store) == items(changed)
    small = store.current()
    publish(settings, recommended(), full=True)
    whole = store.current()
    assert small is not None
    assert whole is not None
    assert small.content_hash == whole.content_hash


def test_versions_are_compared_by_whether_a_list_changed(settings: Settings) -> None:
    write_night(settings, list_table(SHOPPERS))
    publish(settings, recommended())
    write_night(settings, list_table(with_one_score_changed()))
    publish(settings, recommended())
    found = diff_versions(open_store(settings, "churn"), 1, 2)
    assert (found["changed"], found["unchanged"]) == (1, 199)
    assert found["fields"] == {"churn_probability": {"changed": 0}, "items": {"changed": 1}}
    assert found["top_movers"] == []


@pytest.mark.parametrize("how", ["full", "incremental"])
def test_a_changed_byte_in_a_list_does_not_pass_the_verification(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    honest = writer.write_shard

    def write_shard(path: Any, keys: pa.Array, entries: pa.Array, **options: Any) -> Any:
        wrong = [entry.replace(b"P000013", b"P000012") for entry in entries.to_pylist()]
        return honest(path, keys, pa.array(wrong, pa.binary()), **options)

    write_night(settings, list_table(SHOPPERS))
    if how == "incremental":
        publish(settings, recommended())
        write_night(settings, list_table(with_one_score_changed()))
    monkeypatch.setattr(full if how == "full" else incremental, "write_shard", write_shard)
    with pytest.raises(CheckError, match="does not read back as the source has it: 200 rows of 200"):
        publish(settings, recommended())


def test_gates_count_rows_and_null_lists_and_pass_over_drift(settings: Settings) -> None:
    write_night(settings, list_table(SHOPPERS))
    rules = Publish(max_row_change=0.5, max_null_share=0.1, max_psi=0.1)
    publish(settings, recommended(rules=rules))
    others = {key: {"items": top(3, first=9000)} for key in SHOPPERS}
    write_night(settings, list_table(others))
    assert publish(settings, recommended(rules=rules)).details["version"] == 2
    write_night(settings, list_table({key: {"items": None} for key in SHOPPERS}))
    with pytest.raises(CheckError, match="200 of 200 values of 'items' are null"):
        publish(settings, recommended(rules=rules))
    write_night(settings, list_table({key: SHOPPERS[key] for key in list(SHOPPERS)[:50]}))
    with pytest.raises(CheckError, match="the rows go from 200 to 50"):
        publish(settings, recommended(rules=rules))


def test_long_lists_are_spread_over_more_shards_and_still_travel_in_small_segments(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SHARD_VALUES", 500)
    write_night(settings, list_table(SHOPPERS))
    publish(settings, recommended())
    store = open_store(settings, "churn")
    manifest = store.current()
    assert manifest is not None
    assert len(manifest.segments[0].shards) == 8
    write_night(settings, list_table(with_one_score_changed()))
    assert publish(settings, recommended()).details["kind"] == "incremental"
    assert served_items(store) == items(with_one_score_changed())


def test_batches_hold_few_rows_where_lists_are_long(settings: Settings) -> None:
    from forecache.serve.store.encoding.prediction_source import open_night

    write_night(settings, list_table(SHOPPERS))
    source = open_night(settings, recommended(), None)
    piece = source.reader.pieces[0]
    assert (piece.rows, piece.values, source.values_of(10)) == (200, 4000, 200)
    batches = list(source.reader.batches(piece, ["items"], batch_rows=1000))
    assert {len(batch) for batch in batches} == {50}


def test_a_row_group_with_lists_is_decoded_batch_by_batch(settings: Settings) -> None:
    from forecache.serve.store.encoding.prediction_source import open_night

    lists = pa.array([top(50)], TYPES["items"]).take(pa.array([0] * 40_000))
    table = list_table({f"{number:05d}": {} for number in range(40_000)})
    table = table.set_column(table.schema.get_field_index("items"), "items", lists)
    write_night(settings, table)
    whole = lists.nbytes
    del lists, table
    reader = open_night(settings, recommended(), None).reader
    before, most, rows = pa.total_allocated_bytes(), 0, 0
    for batch in reader.batches(reader.pieces[0], ["customer_id", "items"]):
        most, rows = max(most, pa.total_allocated_bytes() - before), rows + len(batch)
    assert rows == 40_000
    assert most < whole / 4


@pytest.mark.parametrize(("first", "second"), [("items", "tags"), ("items", "orders"), ("orders", "active")])
def test_a_column_that_an_older_file_lacks_is_null(settings: Settings, first: str, second: str) -> None:
    write_night(settings, list_table({"old": ROWS["plain"]}, columns=(first,)))
    more = list_table({"new": ROWS["plain"]}, columns=(first, second))
    uri = settings.table_uri("predictions_churn")
    write_deltalake(uri, more, mode="append", schema_mode="merge", partition_by=["as_of"])
    publish(settings, recommended((first, second)))
    found = served(open_store(settings, "churn"))
    assert (found["new"][first], found["new"][second]) == (ROWS["plain"][first], ROWS["plain"][second])
    assert (found["old"][first], found["old"][second]) == (ROWS["plain"][first], None)


def test_a_replica_and_redis_serve_the_same_lists(settings: Settings, tmp_path: Any) -> None:
    with redis_server(tmp_path) as port:
        remote = str(tmp_path / "remote")
        there = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}", "store_remote": remote})
        pipeline = recommended(rules=replace(OPEN_RULES, backend="redis"))
        write_night(there, list_table(SHOPPERS))
        publish(there, pipeline)
        write_night(there, list_table(with_one_score_changed()))
        publish(there, pipeline)
        replica = Store(tmp_path / "replica" / "churn")
        pull(replica, open_remote(remote, there.storage_options))
        assert served_items(replica) == items(with_one_score_changed())
        with open_store(there, "churn").snapshot() as here:
            keys = [key for key, _ in here.items()]
            assert open_redis_store(there, "churn").snapshot().get_many(keys) == here.get_many(keys)
