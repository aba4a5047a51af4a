"""What a stream remembers, made again from the rows of its table: today's tiles, and which events were there."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from forecache.lake.delta.log import open_if_exists
from forecache.lake.delta.stream_tables import hour_of
from forecache.pipeline import Stream
from forecache.settings import Settings
from forecache.stream.record import EVENT_DAY, HOUR, OFFSET, PARTITION, PLACE, POSITION, RECEIVED_AT, event_fields
from forecache.stream.repeats.folder import Mark
from forecache.stream.repeats.repeats import Repeats
from forecache.stream.step.step import Step
from forecache.stream.table.rows import rows_in_order
from forecache.stream_state import stream_folder

_PART_ROWS = 1 << 16
_EPOCH = date(1970, 1, 1)


def rebuild(settings: Settings, stream: Stream, step: Step) -> tuple[int, int]:
    """Have a new step know what follows from the rows in the table; returns how many it read for tiles and for ids.

    Tiles follow from the events of the days that they are kept of. Ids are in files beside the stream's state, and
    what these lack is read from the table. The process holds the stream's lock, so that it has these files alone.
    """
    today = datetime.now(timezone.utc).date()
    return _replay(settings, stream, step, today), remember(settings, stream, step.repeats)


def remember(settings: Settings, stream: Stream, repeats: Repeats) -> int:
    """Have it know the ids of the last days; returns how many rows of the table it took, those that no file had."""
    unique = set(stream.source.unique)
    if not unique:
        return 0
    fields = [field for field in event_fields(stream.topic) if field.name in unique]
    since = datetime.now(timezone.utc).date() - timedelta(days=stream.late_days)
    ids = {field.name: str(field.type) for field in sorted(fields, key=lambda field: field.name)}
    folder = stream_folder(settings.home_path, stream.name) / "ids"
    repeats.open(folder, ids=ids, since=(since - _EPOCH).days)
    delta = open_if_exists(settings, stream.table)
    dataset = None if delta is None else delta.to_pyarrow_dataset()
    if repeats.mark is not None and (dataset is None or not _has(dataset, repeats.mark)):
        repeats.forget()
    return 0 if dataset is None else repeats.remember(_behind(dataset, fields, repeats.mark, since))


def _replay(settings: Settings, stream: Stream, step: Step, today: date) -> int:
    since = min((step.first_day(name) for name in step.views), default=today + timedelta(days=1))
    fields = event_fields(stream.topic)
    columns, wanted = [EVENT_DAY, *(field.name for field in fields)], pc.field(EVENT_DAY) >= pa.scalar(since)
    return step.replay(_whole(rows, fields) for rows in rows_in_order(settings, stream.table, columns, wanted))


def _has(dataset: Any, mark: Mark) -> bool:
    """Whether the table has the row: if not, it was made anew or restored, and has another history."""
    where = (pc.field(POSITION) == mark.position) & (pc.field(PLACE) == mark.place)
    rows = dataset.to_table([PARTITION, OFFSET, RECEIVED_AT], filter=where)
    received = rows[RECEIVED_AT].cast(pa.int64())
    found = zip(rows[PARTITION].to_pylist(), rows[OFFSET].to_pylist(), received.to_pylist(), strict=True)
    return (mark.partition, mark.offset, mark.received_us) in found


def _behind(dataset: Any, fields: Sequence[pa.Field], mark: Mark | None, since: date) -> Iterator[pa.Table]:
    """The rows behind a mark that were received since a day, in any order."""
    first = datetime.combine(since, datetime.min.time(), timezone.utc)
    wanted = (pc.field(HOUR) >= hour_of(first)) & (pc.field(RECEIVED_AT) >= pa.scalar(first, pa.timestamp("us", "UTC")))
    if mark is not None:
        wanted &= pc.field(POSITION) > mark.position
    there = [field.name for field in fields if field.name in dataset.schema.names]
    columns = [POSITION, PLACE, PARTITION, OFFSET, RECEIVED_AT, *there]
    for batch in dataset.to_batches(columns, filter=wanted, batch_size=_PART_ROWS, fragment_readahead=2):
        if batch.num_rows:
            yield _whole(pa.Table.from_batches([batch]), fields)


def _whole(rows: pa.Table, fields: Sequence[pa.Field]) -> pa.Table:
    """The rows with the columns that were declared after the table was written last."""
    for field in fields:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows
