"""Days of a stream become landing files: all of the day that was streamed, once the stream has read it to its end."""

import signal
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from warm import start
from watched_streams import D, StreamTable, extract_until, moment, payments

from forecache.base.errors import InputError, NotYetError
from forecache.base.settings import Settings
from forecache.declare import Column, Source, StreamDay
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.landing import list_landing
from forecache.lake.query import query
from forecache.lake.sources import find_awaited_sources, require_delivered
from forecache.plugins.lineage.facts import stage_facts
from forecache.plugins.table_sources.days_to_extract import days_to_extract, extraction_delay_reason
from forecache.plugins.table_sources.extract import extract
from forecache.stream.state import StreamState, write_state

SOURCE = payments()
NOW = moment(D[3], 0.5)
"""Half an hour after the end of D[2]."""


def says(settings: Settings, at: datetime, offsets: dict[str, int], ends: dict[str, int]) -> None:
    """What the engine says at a time."""
    lag = sum(end - offsets[each] for each, end in ends.items())
    state = StreamState(1, at.timestamp(), at.timestamp(), offsets=offsets, end_offsets=ends, lag_events=lag)
    write_state(settings.home_path, "cards", state)


def days(settings: Settings, source: Source = SOURCE, now: datetime = NOW) -> list[date]:
    return days_to_extract(settings, source, first=D[0], last=D[7], now=now)


def landed(settings: Settings) -> list[str]:
    return [file.name for file in list_landing(settings, SOURCE)]


def streamed(settings: Settings, columns: str = "payment_id, amount, paid_at") -> list[tuple[Any, ...]]:
    rows = query(settings, f"select {columns} from stream_cards order by payment_id").to_pylist()
    return [tuple(row.values()) for row in rows]


@pytest.fixture
def table(settings: Settings) -> StreamTable:
    """Three days of three events, at their first and last moments too."""
    table = StreamTable(settings)
    for day in D[:3]:
        table.commit([moment(day, 0), moment(day, 12)], at=moment(day, 12))
        table.commit([moment(day, 24) - timedelta(microseconds=1)], at=moment(day, 23.9))
    return table


def test_a_night_has_all_rows_that_were_streamed(settings: Settings, table: StreamTable, spark: Any) -> None:
    says(settings, NOW, {"0": 9}, {"0": 9})
    result = extract(settings, SOURCE, D, now=NOW)
    assert (result.nights, result.rows) == (tuple(D[:3]), 9)
    assert landed(settings) == [f"{day}.parquet" for day in D[:3]]
    ingest(settings, SOURCE)
    raw = query(settings, "select payment_id, amount, paid_at from raw_payments order by payment_id").to_pylist()
    # Equal to the bit: amounts are no round numbers.
    assert [tuple(row.values()) for row in raw] == streamed(settings)
    assert extract(settings, SOURCE, D, now=NOW).skipped
    require_delivered(settings, SOURCE, D[:3])
    with pytest.raises(InputError, match="once the stream 'cards' has read the day"):
        require_delivered(settings, SOURCE, [D[3]])


def test_a_day_waits_until_the_stream_has_read_what_was_in_the_topic_at_its_end(
    settings: Settings, table: StreamTable
) -> None:
    assert days(settings) == D[:2], "nothing says how far it has read, and it has nothing of an hour after the end"
    says(settings, moment(D[2], 23.9), {"0": 9}, {"0": 9})
    assert "has not run since 2026-01-03 23:54 UTC" in extraction_delay_reason(settings, SOURCE, D[2], now=NOW)
    assert days(settings) == D[:2]
    says(settings, NOW, {"0": 9, "1": 5}, {"0": 9, "1": 6})
    assert extraction_delay_reason(settings, SOURCE, D[2], now=NOW) == (
        "The stream 'cards' lags: it has not read partition 1 to the end of 2026-01-03."
    )
    assert days(settings) == []
    table.commit([moment(D[2], 23)], at=moment(D[3], 0.4), partition=1)
    assert days(settings) == D[:3], "it lags, but not with what was there at midnight"
    assert extract(settings, SOURCE, D, now=NOW).rows == 10


def test_lag_that_goes_after_midnight_lets_the_day_land(settings: Settings, table: StreamTable) -> None:
    says(settings, NOW, {"0": 9, "1": 0}, {"0": 9, "1": 900})
    assert (days(settings), find_awaited_sources(settings, [replace(SOURCE, missing="wait")], D[2])) == (
        [],
        ["payments"],
    )
    with pytest.raises(NotYetError):
        require_delivered(settings, replace(SOURCE, missing="wait"), [D[2]])
    says(settings, NOW, {"0": 9, "1": 900}, {"0": 9, "1": 900})
    assert days(settings) == D[:3]


def test_a_stream_of_another_machine_is_known_by_its_table(settings: Settings, table: StreamTable) -> None:
    table.commit([moment(D[3], 0.9)], at=moment(D[3], 0.99))
    assert days(settings, now=moment(D[3], 2)) == D[:2]
    table.commit([moment(D[3], 1)], at=moment(D[3], 1))
    assert days(settings, now=moment(D[3], 2)) == D[:3]


def test_a_day_waits_for_each_partition_as_one_shard_may_be_ahead_of_another(
    settings: Settings, table: StreamTable
) -> None:
    table.commit([moment(D[2], 13)], at=moment(D[2], 13), partition=1)
    table.commit([moment(D[3], 1)], at=moment(D[3], 1))
    assert days(settings, now=moment(D[3], 2)) == D[:2]
    table.commit([moment(D[3], 1)], at=moment(D[3], 1.1), partition=1)
    assert days(settings, now=moment(D[3], 2)) == D[:3]


def test_an_engine_that_could_not_read_its_topic_does_not_say_that_nothing_waits(
    settings: Settings, table: StreamTable
) -> None:
    failed = StreamState(1, NOW.timestamp(), NOW.timestamp(), last_error="No brokers answer.")
    write_state(settings.home_path, "cards", failed)
    assert days(settings) == D[:2]


def test_late_events_of_a_day_land_however_late_they_come(settings: Settings, table: StreamTable) -> None:
    source = payments(extract=StreamDay("cards", late_days=2, start=D[0]))
    says(settings, NOW, {"0": 9}, {"0": 9})
    extract(settings, source, D, now=NOW)
    before = {file.name: file.modified_at for file in list_landing(settings, source)}
    for later, expected in ((1, D[1:4]), (2, D[2:5]), (3, D[2:6]), (4, [D[2], *D[4:7]])):
        now = NOW + timedelta(days=later)
        says(settings, now, {"0": 9}, {"0": 9})
        table.commit([moment(D[2], 5), moment(now.date(), 0)], at=now)
        assert days(settings, source, now) == expected, "within `late_days` each day is asked for, later only this one"
        extract(settings, source, D, now=now)
        table.commit([moment(D[2], 6)], at=now)
        assert days(settings, source, now) == [], "more of it is taken the next day"
    after = {file.name: file.modified_at for file in list_landing(settings, source)}
    changed = [name for name in before if after[name] != before[name]]
    assert changed == [f"{D[2]}.parquet"], "a file whose rows are the same stays"
    rows = pq.read_table(Path(settings.landing_uri) / "payments" / f"{D[2]}.parquet")["payment_id"].to_pylist()
    assert sorted(rows) == [6, 7, 8, 9, 11, 12, 14, 15, 17, 18]


def test_a_day_with_late_events_still_lands_after_another_run_extracted_the_day_that_is_over(
    settings: Settings, table: StreamTable
) -> None:
    source = payments(extract=StreamDay("cards", late_days=0, start=D[0]))
    says(settings, NOW, {"0": 9}, {"0": 9})
    extract(settings, source, D, now=NOW)
    table.commit([moment(D[0], 5)], at=NOW)
    now = NOW + timedelta(days=1)
    says(settings, now, {"0": 10}, {"0": 10})
    assert days(settings, source, now) == [D[0], D[3]]
    extract(settings, source, [D[3]], now=now)
    assert days(settings, source, now) == [D[0]]
    assert extract(settings, source, [D[0]], now=now).rows == 4


def test_days_before_the_stream_was_whole_are_left_to_files_from_elsewhere(
    settings: Settings, table: StreamTable
) -> None:
    source = payments(extract=StreamDay("cards"))
    says(settings, NOW, {"0": 9}, {"0": 9})
    assert days(settings, source) == D[1:3]
    assert (
        extraction_delay_reason(settings, source, D[0], now=NOW)
        == "The stream 'cards' has no whole day before 2026-01-02."
    )


def test_without_a_table_there_is_nothing_to_take(settings: Settings) -> None:
    assert days(settings) == []
    source = payments(extract=StreamDay("cards"))
    assert extraction_delay_reason(settings, source, D[0], now=NOW) == "The stream 'cards' has committed nothing yet."


def test_a_column_that_the_topic_lacks_is_null_or_refused(settings: Settings, table: StreamTable) -> None:
    says(settings, NOW, {"0": 9}, {"0": 9})
    labelled = replace(SOURCE, columns=(*SOURCE.columns, Column("is_fraud", "boolean", required=False)))
    extract(settings, labelled, [D[0]], now=NOW)
    path = Path(settings.landing_uri) / "payments" / f"{D[0]}.parquet"
    assert pq.read_table(path)["is_fraud"].to_pylist() == [None] * 3
    path.unlink()
    required = replace(SOURCE, columns=(*SOURCE.columns, Column("is_fraud", "boolean")))
    with pytest.raises(InputError, match="has no column 'is_fraud', which source 'payments' requires"):
        extract(settings, required, [D[1]], now=NOW)


def test_lineage_goes_from_the_table_of_the_stream_to_the_landing_files(settings: Settings, table: StreamTable) -> None:
    says(settings, NOW, {"0": 9}, {"0": 9})
    extract(settings, SOURCE, D[:2], now=NOW)
    first, second = stage_facts(settings, [])
    read = [(dataset.name.rpartition("/")[2], dataset.version) for fact in (first, second) for dataset in fact.inputs]
    assert read == [("stream_cards", "1"), ("stream_cards", "3")]
    assert [dataset.name.rpartition("/")[2] for dataset in second.outputs] == ["payments"]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("step", ["batch extracted", "file landed"])
def test_an_extraction_that_is_killed_leaves_no_half_file_and_the_next_lands_all(
    settings: Settings, table: StreamTable, step: str
) -> None:
    says(settings, NOW, {"0": 9}, {"0": 9})
    process = start(extract_until, settings.home, D, NOW, step)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert landed(settings) == ([f"{D[0]}.parquet"] if step == "file landed" else [])
    never_late = payments(extract=StreamDay("cards", late_days=0, start=D[0]))
    assert extract(settings, never_late, D, now=NOW).nights == tuple(D[:3])
    files = [pq.read_table(Path(settings.landing_uri) / "payments" / f"{day}.parquet") for day in D[:3]]
    assert [sorted(file["payment_id"].to_pylist()) for file in files] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
