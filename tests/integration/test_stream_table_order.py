"""The rows of a stream's table come in the order of the stream, an hour of commits at a time."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from stream_rows import StreamTable, click, moment

from forecache.base.settings import Settings
from forecache.serve.store.encoding import streamed_rows as stream_source
from forecache.serve.store.encoding.streamed_rows import open_stream_table

HOURS = (8, 9, 10, 11, 12)
COLUMNS = ["customer_id", "position"]


@pytest.fixture
def table(settings: Settings) -> StreamTable:
    """Five hours of three commits of four rows."""
    made = StreamTable(settings)
    for hour in HOURS:
        for minute in range(3):
            at = moment(date(2026, 3, 1), hour, minute)
            made.commit([click(f"c{number}", 0.5, at) for number in range(4)])
    return made


def test_rows_of_many_hours_come_in_order_and_the_log_is_read_once(
    settings: Settings, table: StreamTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    DeltaTable(table.uri).optimize.compact()  # the files of an hour no longer say which of their rows come first
    rows, opened, real = open_stream_table(settings, table.name), [], stream_source.open_table

    def counted(*given: Any, **more: Any) -> DeltaTable:
        opened.append(given)
        return real(*given, **more)

    monkeypatch.setattr(stream_source, "open_table", counted)
    parts = list(rows.ordered_batches(COLUMNS, above=1, up_to=13))
    assert len(opened) == 1
    assert len(parts) == len(HOURS)
    found = [(row["position"], row["place"], row["customer_id"]) for part in parts for row in part.to_pylist()]
    there = [(row["position"], row["place"], row["customer_id"]) for row in table.rows()]
    assert found == [row for row in there if 1 < row[0] <= 13]


def test_one_hour_is_in_memory_at_a_time(settings: Settings, table: StreamTable) -> None:
    parts = open_stream_table(settings, table.name).ordered_batches(COLUMNS)
    for hour in HOURS[:2]:
        assert next(parts).num_rows == 12
        for file in Path(table.uri).glob(f"hour=*T{hour:02}/*.parquet"):
            file.unlink()
    for file in Path(table.uri).glob(f"hour=*T{HOURS[2]:02}/*.parquet"):
        file.unlink()
    with pytest.raises(FileNotFoundError):
        next(parts)
