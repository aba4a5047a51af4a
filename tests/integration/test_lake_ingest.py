"""Every landing row ends in raw or quarantine, exactly once, whatever the file holds and however often it is run."""

from dataclasses import replace
from typing import Any

import pytest
from landed_orders import D1, HEADER, ORDERS, Land, landing, rows

from forecache.base.settings import Settings
from forecache.declare import Column
from forecache.kit.delta.tables import open_table, table_version
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.row_count import CsvRowCount
from forecache.lake.ledger import all_records


@pytest.fixture
def land(settings: Settings) -> Land:
    return landing(settings)


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
    result = ingest(settings, ORDERS)
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
    first = ingest(settings, ORDERS)
    second = ingest(settings, ORDERS)
    assert not first.skipped
    assert second.skipped
    assert (first.rows, second.rows) == (1, 1)
    assert table_version(settings, "raw_orders") == first.delta_version
    [took] = all_records(settings, "ingest", "orders")
    assert (took.as_of, took.rows, {**took.details, "cost": None}) == (None, 1, {"files": 1, "cost": None})
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
    assert ingest(settings, ORDERS).details["quarantined_rows"] == 0
    found = rows(settings, 'select order_id, customer_id, "at", amount from raw_orders order by order_id')
    assert [row["order_id"] for row in found] == ["c", "j", "p"]
    assert {(row["customer_id"], row["at"], row["amount"]) for row in found} == {("a", at, 0.1)}


def test_rows_are_counted_apart_from_judging_them(
    settings: Settings, spark: Any, land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parser that lost a row would be found: the check compares the tables with the file's bytes."""
    from forecache.lake.quality.raw_days import reconcile

    count = CsvRowCount.finish
    monkeypatch.setattr(CsvRowCount, "finish", lambda self: count(self) + 1)
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\n")
    ingest(settings, ORDERS)
    outcome = reconcile(settings, ORDERS, [D1])[D1]
    assert not outcome.success
    assert "2026-01-01.csv has 2 rows, of which 1 are in raw_orders and 0 in quarantine_orders" in outcome.sentence


@pytest.mark.parametrize("name", ["name", "path", "place", "content", "first"])
def test_the_first_event_with_an_id_is_kept_whatever_the_columns_are_called(
    settings: Settings, land: Land, name: str
) -> None:
    source = replace(ORDERS, columns=(Column(name, "string"), *ORDERS.columns[1:]), unique=(name,))
    order = ",a,2026-01-01T10:00:00Z,5\n"
    land("2026-01-01.csv", HEADER.replace("order_id", name) + f"b{order}a{order}b{order}")
    ingest(settings, source)
    assert [row["source_line"] for row in rows(settings, "select source_line from raw_orders order by 1")] == [2, 3]
    [repeated] = rows(settings, "select source_line, reason, content from quarantine_orders")
    assert repeated == {"source_line": 4, "reason": f"duplicate {name}", "content": f"b{order}".rstrip()}


def test_infinite_numbers_and_years_that_others_cannot_read_are_bad_rows(
    settings: Settings, spark: Any, land: Land
) -> None:
    source = replace(ORDERS, columns=(*ORDERS.columns, Column("due", "date", required=False)), unique=())
    header = HEADER.replace("\n", ",due\n")
    land("2026-01-01.csv", header + "a,a,2026-01-01T10:00:00Z,5,+12345-01-01\nb,a,2026-01-01T10:00:00Z,5,9999-12-31\n")
    land("2026-01-01.2.csv", header + "c,a,2026-01-01T10:00:00Z,-Infinity,\n")
    unbounded = tuple(replace(c, minimum=None, maximum=None) for c in source.columns)
    ingest(settings, replace(source, columns=unbounded))
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
        patch.setattr("forecache.lake.ingest.ingest.record_files", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(settings, ORDERS)
    land("2026-01-02.csv", HEADER + "o3,a,2026-01-02T10:00:00Z,5\n")
    ingest(settings, ORDERS)
    counts = "select (select count(*) from raw_orders) good, (select count(*) from quarantine_orders) bad"
    assert rows(settings, counts) == [{"good": 2, "bad": 1}]


def test_raw_table_is_partitioned_by_day_and_has_neither_deletion_vectors_nor_column_mapping(
    settings: Settings, spark: Any, land: Land
) -> None:
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\n")
    ingest(settings, ORDERS)
    table = open_table(settings, "raw_orders")
    assert table.metadata().partition_columns == ["event_day"]
    assert table.metadata().configuration.get("delta.enableDeletionVectors", "false") == "false"
    assert table.protocol().min_reader_version == 1
