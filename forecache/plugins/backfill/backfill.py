"""Adds landed days of the lake to a stream's table, to begin with or if events were lost in Kafka.

Each commit says in the same log entry how many of the day's landed events are done (Delta's `txn`), and events that the
table has are left out. So a backfill that was killed resumes where it stopped, and one that is repeated does nothing.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta, timezone

import click
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.cli.output import print_json, wants_json
from forecache.declare import FeatureView, Stream
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.log import open_if_exists
from forecache.kit.delta.tables import open_table
from forecache.kit.lease import Lease
from forecache.plugins.backfill.lake_states import LakeStates
from forecache.stream.engine.engine import hold_shards
from forecache.stream.engine.restore_state import rebuild_state
from forecache.stream.step import StreamStep, switch_to_newest
from forecache.stream.table.schema import EVENT_DAY, KAFKA_AT, OFFSET, PARTITION, QUARANTINE, RECEIVED_AT, event_fields
from forecache.stream.table.writer import CommitBatch, StreamWriter
from forecache.stream.tiles.batch_states import BatchState

LANDED = -1  # Kafka partition of rows that come from the lake; Kafka's own are not below 0
_DAYS_APART = 10**10
_EPOCH = date(1970, 1, 1)
_ROWS_A_COMMIT = 20_000


def read_landed_events(settings: Settings, stream: Stream, day: date) -> pa.Table:
    """Read the events of a day from the raw table, sorted by event time and `unique` columns.

    Their partition is -1, their offset 10^10 times the days since 1970 plus their place in the day. InputError if the
    day has not been ingested, NotFoundError if the source has no raw table.
    """
    source, fields = stream.source, event_fields(stream.topic)
    dataset = open_dataset(open_table(settings, source.raw_table), partitions=[(EVENT_DAY, "=", day.isoformat())])
    rows = dataset.to_table(columns=[field.name for field in fields])
    if not rows.num_rows:
        raise InputError(
            f"The source {source.name!r} has no rows of {day}.", remedy=f"Run `forecache ingest --date {day}` first."
        )
    rows = rows.sort_by([(name, "ascending") for name in (source.event_time, *source.unique)])
    n, now = rows.num_rows, datetime.now(timezone.utc)
    first, moment = (day - _EPOCH).days * _DAYS_APART, pa.timestamp("us", tz="UTC")
    made = {
        PARTITION: pa.array([LANDED] * n, pa.int32()),
        OFFSET: pa.array(range(first, first + n), pa.int64()),
        KAFKA_AT: pa.nulls(n, moment),
        EVENT_DAY: pa.array([day] * n, pa.date32()),
        RECEIVED_AT: pa.array([now] * n, moment),
    }
    return pa.table({**made, **{field.name: rows[field.name].cast(field.type) for field in fields}})


def drop_known_events(settings: Settings, stream: Stream, day: date, events: pa.Table) -> pa.Table:
    """Leave out the events of a day that the stream's table has, from Kafka or from an earlier backfill."""
    delta, unique = open_if_exists(settings, stream.table), list(stream.source.unique)
    if delta is None:
        return events
    there = open_dataset(delta).to_table(columns=unique, filter=pc.field(EVENT_DAY) == pa.scalar(day))
    place = "place_in_day"
    numbered = events.append_column(place, pa.array(range(events.num_rows), pa.int64()))
    left = numbered.select([*unique, place]).join(there, keys=unique, join_type="left anti")
    return events.take(left[place].combine_chunks().sort())


@dataclass(frozen=True)
class BackfilledDay:
    day: date
    landed: int  # events of the day in the lake
    added: int  # events among them that the table did not have
    late: int  # added rows for whose day a nightly run had been made already


def backfill(
    settings: Settings,
    stream: Stream,
    first: date,
    last: date,
    *,
    rows_a_commit: int = _ROWS_A_COMMIT,
    told: Callable[[BackfilledDay], None] = lambda day: None,
) -> list[BackfilledDay]:
    """Add landed days in ascending order, each with the newest batch state of its views before it.

    ConflictError if the stream is running; InputError if a day has no landed events, or the source no `unique` columns.
    """
    if not stream.source.unique:
        raise InputError(
            f"The source {stream.source.name!r} does not say what identifies an event: its landed events cannot be "
            "told from those of the topic.",
            remedy="Declare `unique` columns.",
        )
    if last < first:
        raise InputError(f"The last day {last} is before the first, {first}.", remedy="Give FROM before TO.")
    with ExitStack() as held:
        lease = held.enter_context(hold_shards(settings, stream, action="backfill"))
        work, done = _Backfill(settings, stream, lease), []
        held.callback(work.close)
        for number in range((last - first).days + 1):
            done.append(work.add_day(first + timedelta(days=number), rows_a_commit))
            told(done[-1])
        return done


class _Backfill:
    def __init__(self, settings: Settings, stream: Stream, lease: Lease) -> None:
        self._settings, self._stream = settings, stream
        self._nights, self._day = LakeStates(settings, stream), date.min
        self._stands_on: dict[tuple[str, date], BatchState] = {}
        self._step = StreamStep(settings, stream, bases=self._state_of)
        switch_to_newest(self._step.answerer)
        self._writer = StreamWriter(settings, stream, lease=lease)
        self._is_rebuilt = False

    def add_day(self, day: date, rows_a_commit: int) -> BackfilledDay:
        events = read_landed_events(self._settings, self._stream, day)
        landed, mark = events.num_rows, _transaction_name(self._stream, day)
        if self._count_done(mark) == landed:
            return BackfilledDay(day, landed, 0, 0)
        self._day = day
        if not self._is_rebuilt:
            rebuild_state(self._settings, self._stream, self._step)
            self._is_rebuilt = True
        new = drop_known_events(self._settings, self._stream, day, events)
        late = added = 0
        for start in range(0, max(1, new.num_rows), rows_a_commit):
            answered = self._step.answer(new.slice(start, rows_a_commit).combine_chunks())
            is_last = start + rows_a_commit >= new.num_rows
            done = landed if is_last else landed - new.num_rows + start + rows_a_commit
            batch = CommitBatch(answered.rows, QUARANTINE.empty_table(), {}, marks={mark: done})
            self._step.repeats.confirm_commit(answered.rows, self._writer.write(batch))
            added, late = added + answered.rows.num_rows, late + answered.late
        return BackfilledDay(day, landed, added, late)

    def close(self) -> None:
        self._step.repeats.close()

    def _state_of(self, view: FeatureView) -> BatchState:
        where = view.name, self._day
        if where not in self._stands_on:
            self._stands_on[where] = self._nights.find_newest_before(view, self._day)
        return self._stands_on[where]

    def _count_done(self, mark: str) -> int | None:
        delta = open_if_exists(self._settings, self._stream.table)
        return None if delta is None else delta.transaction_version(mark)


def _transaction_name(stream: Stream, day: date) -> str:
    """Application id of Delta's `txn` action for a backfilled day; its version counts the events that are done."""
    return f"forecache-stream-{stream.name}-landed-{day}"


def backfill_days(settings: Settings, stream: Stream, first: date, last: date) -> None:
    """Add the events of landed days to a stream's table, and print the result of each day."""

    def print_day(day: BackfilledDay) -> None:
        if not wants_json():
            click.echo(f"{day.day}  {day.landed:>12,} landed  {day.added:>12,} added")

    days = backfill(settings, stream, first, last, told=print_day)
    if wants_json():
        print_json([asdict(day) for day in days])


def recompute_table(settings: Settings, stream: Stream) -> bool:
    """Compute a stream's table again; returns True if all compared rows are equal."""
    from forecache.plugins.backfill.recompute import recompute

    found = recompute(settings, stream)
    if wants_json():
        print_json(asdict(found))
        return found.difference is None
    click.echo(f"{found.compared:,} of {found.rows:,} rows compared in {found.seconds:.1f} s")
    for each in found.gone:
        click.echo(f"not there any more, so that its rows are not compared: {each}")
    differs = found.difference
    if differs is None:
        click.echo("every bit is equal" if found.compared else "nothing could be compared")
        return True
    key = ", ".join(f"{name}={value}" for name, value in differs.key.items())
    click.echo(
        f"The row of {key} (position {differs.position}, place {differs.place}, offset {differs.offset} of partition "
        f"{differs.partition}) differs in {differs.column}:"
    )
    click.echo(f"  table     {differs.there!r}\n  computed  {differs.here!r}")
    return False
