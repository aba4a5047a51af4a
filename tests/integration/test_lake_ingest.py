"""Every landing row ends in raw or quarantine, exactly once, whatever the file holds and however often it is run."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from forecache.errors import InputError
from forecache.lake.delta.tables import open_table, table_version
from forecache.lake.ingest.ingest import _count, ingest
from forecache.lake.ingest.ingested import ingested_files, raw_state, require_days
from forecache.lake.ledger import all_records
from forecache.lake.query import query
from forecache.pipeline import Column, Source
from forecache.settings import Settings

D1, D2, D3 = date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 3)
HEADER = "order_id,customer_id,at,amount\n"

ORDERS = Source(
    "orders",
    columns=(
        Column("order_id", "string"),
        Column("customer_id", "string"),
        Column("at", "timestamp"),
        Column("amount", "double", minimum=0, maximum=1000),
    ),
    event_time="at",
    unique=("order_id",),
    start=D1,
)

Land = Callable[[str, str | bytes], Path]


@pytest.fixture
def land(settings: Settings) -> Land:
    folder = Path(settings.landing_uri) / ORDERS.name
    folder.mkdir(parents=True)

    def write(name: str, content: str | bytes) -> Path:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    return query(settings, sql).to_pylist()


def test_bad_rows_go_to_quarantine_with_file_line_and_reason(settings: Settings, spark: Any, land: Land) -> None:
    land(
        "2026-01-01.csv",
        HEADER
        + "o1,a,2026-01-01T10:00:00Z,5\n"
        + "o2,,2026-01-01T10:00:00Z,5\n"
        + "o3,a,2026-01-01T10:00:00Z,five\n"
        + "o4,a,2026-01-01T10:00:00Z,-1\n"
        + "o5,a,2026-01-02T00:00:00Z,5\n"
        + "o6,a,2026-01-01T10:00:00Z,1001\n"
        + "o1,b,2026-01-01T11:00:00Z,7\n"
        + "o7,a,yesterday,5\n"
        + "o8,a,2026-01-01T10:00:00Z,NaN\n"
        + "o9,a\n",
    )
    result = ingest(spark, settings, ORDERS)
    assert (result.rows, result.details["raw_rows"], result.details["quarantined_rows"]) == (10, 1, 9)
    reasons = rows(settings, "select source_line, reason, source_file from quarantine_orders order by source_line")
    assert [(row["source_line"], row["reason"]) for row in reasons] == [
        (3, "customer_id is missing"),
        (4, "amount 'five' is not of type double"),
        (5, "amount -1 is below the minimum 0"),
        (6, "at 2026-01-02T00:00:00Z is not on the file's day 2026-01-01"),
        (7, "amount 1001 is above the maximum 1000"),
        (8, "duplicate order_id"),
        (9, "at 'yesterday' is not of type timestamp"),
        (10, "amount is not a number"),
        (11, "the row has 2 fields, the header 4"),
    ]
    assert {row["source_file"] for row in reasons} == {"2026-01-01.csv"}
    assert rows(settings, "select order_id, amount, source_line from raw_orders") == [
        {"order_id": "o1", "amount": 5.0, "source_line": 2}
    ]


def test_ingesting_twice_is_a_no_op(settings: Settings, spark: Any, land: Land) -> None:
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\n")
    first = ingest(spark, settings, ORDERS)
    second = ingest(spark, settings, ORDERS)
    assert not first.skipped
    assert second.skipped
    assert (first.rows, second.rows) == (1, 1)
    assert table_version(settings, "raw_orders") == first.delta_version
    [took] = all_records(settings, "ingest", "orders")
    assert (took.night, took.rows, took.details) == (None, 1, {"files": 1})
    assert 0 < took.seconds <= first.seconds


def test_csv_json_and_parquet_files_of_the_same_rows_give_the_same_raw_rows(
    settings: Settings, spark: Any, land: Land
) -> None:
    import io
    from datetime import datetime, timezone

    import pyarrow as pa
    import pyarrow.parquet as pq

    at = datetime(2026, 1, 1, 10, 30, tzinfo=timezone.utc)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"order_id": ["p"], "customer_id": ["a"], "at": [at], "amount": [0.1]}), buffer)
    land("2026-01-01.parquet", buffer.getvalue())
    land("2026-01-01.csv", HEADER + "c,a,2026-01-01T10:30:00Z,0.1\n")
    land("2026-01-01.jsonl", '{"order_id": "j", "customer_id": "a", "at": "2026-01-01T10:30:00Z", "amount": 0.1}\n')
    assert ingest(spark, settings, ORDERS).details["quarantined_rows"] == 0
    found = rows(settings, 'select order_id, customer_id, "at", amount from raw_orders order by order_id')
    assert [row["order_id"] for row in found] == ["c", "j", "p"]
    assert {(row["customer_id"], row["at"], row["amount"]) for row in found} == {("a", at, 0.1)}


def test_unreadable_and_empty_files_are_quarantined_whole_and_the_night_says_why(
    settings: Settings, spark: Any, land: Land
) -> None:
    land("2026-01-01.csv", "")
    land("2026-01-02.csv", "order_id,customer_id,at\no1,a,2026-01-02\n")
    land("2026-01-03.csv", HEADER + "o1,a,2026-01-03T10:00:00Z,5\n")
    result = ingest(spark, settings, ORDERS)
    assert result.details["quarantined_files"] == {
        "2026-01-01.csv": "the file is empty",
        "2026-01-02.csv": "the column 'amount' is missing",
    }
    quarantined = rows(settings, "select source_file, source_line from quarantine_orders order by source_file")
    assert quarantined == [{"source_file": f"2026-01-0{day}.csv", "source_line": 0} for day in (1, 2)]
    require_days(settings, ORDERS, [D3])
    with pytest.raises(InputError, match=r"'2026-01-02\.csv' of source 'orders' is in quarantine: the column 'amount'"):
        require_days(settings, ORDERS, [D2])
    with pytest.raises(InputError, match=r"night 2026-01-04 is empty"):
        require_days(settings, ORDERS, [date(2026, 1, 4)])


def test_changed_file_is_an_error_and_new_files_are_ingested_all_the_same(
    settings: Settings, spark: Any, land: Land
) -> None:
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\n")
    ingest(spark, settings, ORDERS)
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,6\n")
    land("2026-01-02.csv", HEADER + "o2,a,2026-01-02T10:00:00Z,7\n")
    with pytest.raises(InputError, match=r"'2026-01-01\.csv' of source 'orders' has changed.*under a new name"):
        ingest(spark, settings, ORDERS)
    assert rows(settings, "select order_id, amount from raw_orders order by order_id") == [
        {"order_id": "o1", "amount": 5.0},
        {"order_id": "o2", "amount": 7.0},
    ]


def test_touched_file_with_the_same_content_is_no_error(settings: Settings, spark: Any, land: Land) -> None:
    import os

    path = land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\n")
    ingest(spark, settings, ORDERS)
    os.utime(path, (1, 1))
    assert ingest(spark, settings, ORDERS).skipped


def test_late_file_is_ingested_beside_the_first_and_moves_the_state_of_later_nights_only(
    settings: Settings, spark: Any, land: Land
) -> None:
    for day in (1, 2, 3):
        land(f"2026-01-0{day}.csv", HEADER + f"o{day},a,2026-01-0{day}T10:00:00Z,5\n")
    ingest(spark, settings, ORDERS)
    before = [raw_state(settings, ORDERS, night) for night in (D1, D2, D3)]
    land("2026-01-02.late.csv", HEADER + "o9,a,2026-01-02T11:00:00Z,5\no1,a,2026-01-02T11:00:00Z,5\n")
    result = ingest(spark, settings, ORDERS)
    assert result.details["late_days"] == ["2026-01-02"]
    assert (result.details["raw_rows"], result.details["quarantined_rows"]) == (1, 1)
    after = [raw_state(settings, ORDERS, night) for night in (D1, D2, D3)]
    assert [b == a for b, a in zip(before, after, strict=True)] == [True, False, False]


def test_copy_of_a_file_of_the_same_day_is_quarantined_whole(settings: Settings, spark: Any, land: Land) -> None:
    content = HEADER + "o1,a,2026-01-01T10:00:00Z,5\n"
    land("2026-01-01.csv", content)
    ingest(spark, settings, ORDERS)
    land("2026-01-01.again.csv", content)
    land("2026-01-02.a.csv", HEADER)
    land("2026-01-02.b.csv", HEADER)
    land("2026-01-03.a.csv", HEADER + "o2,a,2026-01-03T10:00:00Z,5\n")
    land("2026-01-03.b.csv", HEADER + "o2,a,2026-01-03T10:00:00Z,5\n")
    assert ingest(spark, settings, ORDERS).details["quarantined_files"] == {
        "2026-01-01.again.csv": "it is a copy of '2026-01-01.csv', a file of the same day",
        "2026-01-03.b.csv": "it is a copy of '2026-01-03.a.csv', a file of the same day",
    }
    found = rows(settings, "select order_id, source_file from raw_orders order by 1")
    assert [row["source_file"] for row in found] == ["2026-01-01.csv", "2026-01-03.a.csv"]


def test_rows_are_counted_apart_from_judging_them(
    settings: Settings, spark: Any, land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parser that lost a row would be found: the check compares the tables with the file's bytes."""
    from forecache.quality.reconcile import reconcile

    def one_more(judged: Any) -> dict[str, dict[str, Any]]:
        return {name: {**count, "counted": count["counted"] + 1} for name, count in _count(judged).items()}

    # Spark's workers import the parser themselves, so the count of the bytes is changed instead.
    monkeypatch.setattr("forecache.lake.ingest.ingest._count", one_more)
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\n")
    ingest(spark, settings, ORDERS)
    outcome = reconcile(settings, ORDERS, [D1])[D1]
    assert not outcome.success
    assert "2026-01-01.csv has 2 rows, of which 1 are in raw_orders and 0 in quarantine_orders" in outcome.sentence


def test_infinite_numbers_and_years_that_others_cannot_read_are_bad_rows(
    settings: Settings, spark: Any, land: Land
) -> None:
    source = replace(ORDERS, columns=(*ORDERS.columns, Column("due", "date", required=False)), unique=())
    header = HEADER.replace("\n", ",due\n")
    land("2026-01-01.csv", header + "a,a,2026-01-01T10:00:00Z,5,+12345-01-01\nb,a,2026-01-01T10:00:00Z,5,9999-12-31\n")
    land("2026-01-01.2.csv", header + "c,a,2026-01-01T10:00:00Z,-Infinity,\n")
    unbounded = tuple(replace(c, minimum=None, maximum=None) for c in source.columns)
    ingest(spark, settings, replace(source, columns=unbounded))
    reasons = [row["reason"] for row in rows(settings, "select reason from quarantine_orders order by source_file")]
    assert reasons == ["amount -Infinity is not finite", "due +12345-01-01 is outside the years 1 to 9999"]
    assert [row["order_id"] for row in rows(settings, "select order_id from raw_orders")] == ["b"]


def test_run_killed_before_the_files_were_entered_is_made_good_by_the_next(
    settings: Settings, spark: Any, land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\no2,a,2026-01-01T10:00:00Z,-5\n")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("forecache.lake.ingest.ingest.enter_files", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(spark, settings, ORDERS)
    land("2026-01-02.csv", HEADER + "o3,a,2026-01-02T10:00:00Z,5\n")
    ingest(spark, settings, ORDERS)
    counts = "select (select count(*) from raw_orders) good, (select count(*) from quarantine_orders) bad"
    assert rows(settings, counts) == [{"good": 2, "bad": 1}]


def test_counts_of_every_file_reconcile_and_files_being_written_are_left_alone(
    settings: Settings, spark: Any, land: Land
) -> None:
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\no2,a,2026-01-01T10:00:00Z,-5\n")
    land(".2026-01-02.csv", HEADER)
    land("_SUCCESS", "")
    ingest(spark, settings, ORDERS)
    (file,) = ingested_files(settings, ORDERS)
    assert file.landing_rows == file.raw_rows + file.quarantined_rows == 2
    assert len(file.sha256) == 64


def test_raw_table_is_partitioned_by_day_and_has_neither_deletion_vectors_nor_column_mapping(
    settings: Settings, spark: Any, land: Land
) -> None:
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\n")
    ingest(spark, settings, ORDERS)
    table = open_table(settings, "raw_orders")
    assert table.metadata().partition_columns == ["event_day"]
    assert table.metadata().configuration.get("delta.enableDeletionVectors", "false") == "false"
    assert table.protocol().min_reader_version == 1
