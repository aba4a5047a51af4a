"""Tables hold their contracts: a partition written twice stays the same, both engines read it, errors are sentences."""

from datetime import date, datetime, timezone
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema
from warm import assert_valid_log

from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.partitions import take_snapshot
from forecache.kit.delta.tables import (
    append_rows,
    commit_partitions,
    list_tables,
    open_table,
    read_table,
    replace_rows,
    replace_table,
    table_version,
)
from forecache.kit.delta.writers import fit_schema, write_frame, write_rows
from forecache.lake.ledger import StageRecord, append_records, last_record, last_records
from forecache.lake.query import query

N1, N2 = date(2026, 1, 1), date(2026, 1, 2)
SCHEMA = "customer_id string, as_of date, score double"


def write(settings: Settings, spark: Any, rows: list[tuple[Any, ...]], *nights: date) -> int:
    frame = spark.createDataFrame(rows, SCHEMA)
    return replace_nights(settings, frame, *nights)


def replace_nights(settings: Settings, frame: Any, *nights: date) -> int:
    seen = take_snapshot(settings, "features_t", "as_of")
    written = write_frame(frame, settings, "features_t", partition_by="as_of")
    return commit_partitions(written, settings, "features_t", column="as_of", values=nights, seen=seen).version


def test_writing_a_night_twice_leaves_the_same_rows_and_other_nights_alone(settings: Settings, spark: Any) -> None:
    write(settings, spark, [("a", N1, 1.0), ("b", N1, 2.0)], N1)
    write(settings, spark, [("a", N2, 3.0)], N2)
    before = query(settings, "select * from features_t order by all").to_pylist()
    write(settings, spark, [("a", N1, 1.0), ("b", N1, 2.0)], N1)
    assert query(settings, "select * from features_t order by all").to_pylist() == before
    assert len(before) == 3


def test_rows_of_another_night_are_refused_and_nothing_is_written(settings: Settings, spark: Any) -> None:
    version = write(settings, spark, [("a", N1, 1.0)], N1)
    with pytest.raises(InputError, match="have as_of 2026-01-02, which is not among"):
        write(settings, spark, [("a", N2, 1.0)], N1)
    assert table_version(settings, "features_t") == version


def test_spark_reads_what_delta_rs_wrote_and_delta_rs_what_spark_wrote(settings: Settings, spark: Any) -> None:
    append_rows(settings, "t", pa.table({"x": [1, 2]}))
    assert sorted(row.x for row in read_table(spark, settings, "t").collect()) == [1, 2]
    version = write(settings, spark, [("a", N1, 1.0)], N1)
    table = DeltaTable(settings.table_uri("features_t"), version=version)
    assert table.to_pyarrow_table().to_pylist() == [{"customer_id": "a", "as_of": N1, "score": 1.0}]
    changes = pa.table(table.load_cdf(starting_version=version).read_all())
    assert changes.column("_change_type").to_pylist() == ["insert"]


def test_column_of_another_type_is_refused_with_the_remedy(settings: Settings, spark: Any) -> None:
    write(settings, spark, [("a", N1, 1.0)], N1)
    frame = spark.createDataFrame([("a", N1, "high")], "customer_id string, as_of date, score string")
    frame = frame.selectExpr("customer_id", "as_of", "array(score) as score")
    with pytest.raises(InputError, match="'features_t' holds a column of another type.*new name"):
        replace_nights(settings, frame, N1)


def test_replacing_the_whole_table_replaces_its_columns_too(settings: Settings, spark: Any) -> None:
    for frame in (spark.createDataFrame([(1,)], "x int"), spark.createDataFrame([("a",)], "y string")):
        replace_table(settings, "t", *write_frame(frame, settings, "t", fit=False))
    assert query(settings, "select * from t").to_pylist() == [{"y": "a"}]


def test_unknown_table_and_version_are_not_found(settings: Settings, spark: Any) -> None:
    with pytest.raises(NotFoundError, match=r"no table 'nothing'\. `forecache tables`"):
        open_table(settings, "nothing")
    append_rows(settings, "t", pa.table({"x": [1]}))
    with pytest.raises(NotFoundError, match="'t' has no version 7"):
        open_table(settings, "t", version=7)


def test_tables_are_listed_with_rows_and_versions(settings: Settings) -> None:
    assert list_tables(settings) == []
    append_rows(settings, "b", pa.table({"x": [1, 2]}))
    append_rows(settings, "a", pa.table({"x": [1]}))
    append_rows(settings, "a", pa.table({"x": [1]}))
    assert [(table.name, table.version, table.rows, table.files) for table in list_tables(settings)] == [
        ("a", 1, 2, 2),
        ("b", 0, 2, 1),
    ]


def test_ledger_gives_the_latest_row_of_each_night(settings: Settings) -> None:
    def row(night: date | None, inputs: str) -> StageRecord:
        return StageRecord("features", "churn", night, inputs, "features_churn", 1, 2, 0.5, {"by": "test"})

    assert last_records(settings, "features", "churn") == {}
    append_records(settings, [row(N1, "a"), row(N2, "b")])
    append_records(settings, [row(N1, "c")])
    append_records(settings, [row(None, "d")])
    records = last_records(settings, "features", "churn")
    assert {night: found.inputs for night, found in records.items()} == {N1: "c", N2: "b", None: "d"}
    assert records[N1].details == {"by": "test"}
    assert records[N1].code_version
    assert last_record(settings, "features", "spend", N1) is None


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select 1 frm x y", "The query failed: Parser Error"),
        ("select * from missing", "missing.*Those in the lake: t"),
        ("select * from read_csv('/etc/passwd')", "The query failed: .*"),
        ("copy (select 1) to '/tmp/forecache_must_not_exist.csv'", "A query only reads the lake's tables, .* COPY"),
    ],
)
def test_wrong_query_is_one_sentence_and_reaches_nothing_outside_the_lake(
    settings: Settings, sql: str, message: str
) -> None:
    append_rows(settings, "t", pa.table({"x": [1]}))
    with pytest.raises(InputError, match=message):
        query(settings, sql)


def test_rows_that_several_threads_append_at_once_are_each_there_once(settings: Settings) -> None:
    from concurrent.futures import ThreadPoolExecutor

    append_rows(settings, "t", pa.table({"x": [0]}))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda x: append_rows(settings, "t", pa.table({"x": [x]})), range(1, 13)))
    assert sorted(query(settings, "select x from t").column("x").to_pylist()) == list(range(13))


ROWS_SCHEMA = "source_file string, line int, at timestamp, value float, event_day date"


def test_replacing_rows_by_name_keeps_the_other_rows_of_their_files(settings: Settings, spark: Any) -> None:
    def put(names: list[str], rows: list[tuple[Any, ...]]) -> int:
        frame = spark.createDataFrame(rows, ROWS_SCHEMA).coalesce(1)
        written = write_frame(frame, settings, "raw_t", partition_by="event_day")
        return replace_rows(
            written, settings, "raw_t", column="source_file", values=names, partition_by="event_day", within=[N1, N2]
        )

    at = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=timezone.utc)
    a, b = [("a", i, at, None, N1) for i in range(3)], [("b", i, at, 0.5, N1) for i in range(4)]
    late = [("c", 0, None, 1.5, N2)]
    put(["a", "b"], a + b)
    put(["c"], late)
    version = put(["a"], a[:2])
    assert put(["b"], [(*row[:3], 2.5, N1) for row in b]) == version + 1
    expected = sorted([*a[:2], *((*row[:3], 2.5, N1) for row in b), *late], key=lambda row: row[:2])
    order = [("source_file", "ascending"), ("line", "ascending")]
    table = open_table(settings, "raw_t").to_pyarrow_table()
    assert [tuple(row[name] for name in table.schema.names) for row in table.sort_by(order).to_pylist()] == expected
    read = read_table(spark, settings, "raw_t").toArrow().select(table.schema.names).sort_by(order)
    assert [tuple(row.values()) for row in read.to_pylist()] == expected
    assert table.schema.field("at").type == pa.timestamp("us", tz="UTC")
    assert (table.schema.field("line").type, table.schema.field("value").type) == (pa.int32(), pa.float32())
    bounds = pa.table(open_table(settings, "raw_t").get_add_actions(flatten=True))
    assert {value for value in bounds["max.at"].to_pylist() if value is not None} == {at}
    assert_valid_log(settings.table_uri("raw_t"))


def test_narrower_numbers_are_widened_to_the_tables_type(settings: Settings, spark: Any) -> None:
    append_rows(settings, "t", pa.table({"name": ["a"], "x": pa.array([1], pa.int64())}))
    frame = spark.createDataFrame([("b", 2)], "name string, x int")
    replace_rows(write_frame(frame, settings, "t"), settings, "t", column="name", values=["b"])
    narrow = pa.schema([("name", pa.string()), ("x", pa.int16())])
    assert fit_schema(narrow, settings, "t") == pa.schema([("name", pa.string()), ("x", pa.int64())])
    with pytest.raises(InputError, match="x"):
        fit_schema(pa.schema([("name", pa.string()), ("x", pa.string())]), settings, "t")
    assert query(settings, "select * from t order by x").to_pylist() == [{"name": "a", "x": 1}, {"name": "b", "x": 2}]


def test_spark_reads_the_change_feed_of_a_partition_that_was_replaced(settings: Settings, spark: Any) -> None:
    write(settings, spark, [("a", N1, 1.0), ("b", N1, 2.0)], N1)
    version = write(settings, spark, [("a", N1, 3.0)], N1)
    feed = spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", version)
    rows = feed.load(settings.table_uri("features_t")).select("_change_type", "customer_id", "score").collect()
    assert sorted(map(tuple, rows)) == [("delete", "a", 1.0), ("delete", "b", 2.0), ("insert", "a", 3.0)]


def test_a_commit_that_loses_its_first_attempts_tries_again_however_long_they_took(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecache.kit.delta.commit._PATIENCE_S", 0.0)  # each attempt took longer than all patience
    rows, schema = pa.table({"key": [1]}), Schema.from_arrow(pa.schema([("key", pa.int64())]))

    def append() -> None:
        commit(Target(settings, "busy", schema), lambda _: Change(write_rows(rows, settings, "busy")))

    append()
    tries = 0

    def decide(state: TableState) -> Change:
        nonlocal tries
        tries += 1
        if tries <= 5:
            append()  # another's commit, between this one's look and its own commit
        return Change(write_rows(rows, settings, "busy"))

    assert commit(Target(settings, "busy", schema), decide) == 6
    assert DeltaTable(settings.table_uri("busy")).to_pyarrow_table().num_rows == 7
