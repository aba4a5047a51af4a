"""What a stream's tables have to hold, computed from all messages at once."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import pyarrow as pa
from stream_sample import EmptyNight, a_stream, messages, table_rows

from forecache.base.settings import Settings
from forecache.stream.step import StreamStep
from forecache.stream.table.schema import OFFSET, PARTITION

_OF_THE_RUN = {"position", "place", "hour", "received_at", "kafka_at"}


def answered(settings: Settings, values: Sequence[bytes | None], **declared: Any) -> tuple[list[Any], list[Any]]:
    """The rows and the bad messages of one partition's messages, without what depends on the run."""
    step = StreamStep(settings, a_stream(**declared), bases=lambda view: EmptyNight())
    found = step.answerer.find_newer()
    if found is not None:
        step.answerer.switch_to(found)
    whole = step.run(messages(values))
    return [plain(row) for row in whole.rows.to_pylist()], [plain(row) for row in whole.bad.to_pylist()]


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _OF_THE_RUN}


def assert_tables_hold(settings: Settings, values: Sequence[bytes | None], **declared: Any) -> list[dict[str, Any]]:
    """Compare both tables of the stream with what the messages of its one partition come to; returns the rows."""
    rows, bad = answered(settings, values, **declared)
    stored = table_rows(settings, "stream_payments")
    assert [plain(row) for row in stored] == rows
    assert [plain(row) for row in table_rows(settings, "stream_quarantine_payments")] == bad
    assert [(row["position"], row["place"]) for row in stored] == sorted(
        {(row["position"], row["place"]) for row in stored}
    ), "positions and places tell rows apart"
    assert all(isinstance(row["event_day"], date) for row in stored)
    return stored


def assert_recomputes(settings: Settings, **declared: Any) -> None:
    """The rows of the table, taken in again in their order, give the same answers to the bit."""
    stored = table_rows(settings, "stream_payments")
    step = StreamStep(settings, a_stream(**declared), bases=lambda view: EmptyNight())
    found = step.answerer.find_newer()
    if found is not None:
        step.answerer.switch_to(found)
    again = step.answer(pa.Table.from_pylist(stored, schema=step.schema)).rows.to_pylist()
    assert [plain(row) for row in again] == [plain(row) for row in stored]
    places = [(row[PARTITION], row[OFFSET]) for row in stored]
    assert len(set(places)) == len(places)
