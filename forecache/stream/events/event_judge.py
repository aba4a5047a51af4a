"""Splits the messages of a topic into typed events and bad messages, by the rules of landing rows."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.base.errors import InputError
from forecache.base.output_kinds import DECLARED
from forecache.declare import Avro, Column
from forecache.declare.features.live import build_merge_plan
from forecache.kit.windows.fold import cannot_sum
from forecache.kit.windows.plan import MergePlan
from forecache.kit.windows.states import microseconds
from forecache.lake.ingest.cast import is_above, is_below, judge_texts
from forecache.lake.ingest.row_count import MAX_ROW_BYTES
from forecache.serve.store.keys import KeyColumn, KeySchema, encode_columns, encode_key
from forecache.stream.events.decoder import AvroDecoder, InvalidMessageError, JsonDecoder
from forecache.stream.table.schema import (
    ARROW_TYPES,
    EVENT_DAY,
    KAFKA_AT,
    OFFSET,
    PARTITION,
    QUARANTINE,
    RECEIVED_AT,
    add_missing_columns,
    event_fields,
)

_EPOCH, _UTC_EPOCH = date(1970, 1, 1), datetime(1970, 1, 1, tzinfo=timezone.utc)
_US = timedelta(microseconds=1)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])(?:\.([0-9]{1,6}))?"
    r"(Z|[+-](?:0[0-9]|1[0-7]):[0-5][0-9])?"
)
NOT_TAKEN = object()  # stands for a value whose text has to be judged
_FIRST_US = (datetime(1, 1, 1, tzinfo=timezone.utc) - _UTC_EPOCH) // _US
_LAST_US = (datetime.max.replace(tzinfo=timezone.utc) - _UTC_EPOCH) // _US
_AS_THEY_ARE: Mapping[str, set[type]] = {"string": {str, type(None)}, "boolean": {bool, type(None)}}
_DAY_US = 86_400_000_000
_SUMMED = 2**44  # exclusive limit of the absolute values that are summed exactly
AHEAD_US = 600_000_000
"""Event times may be so much later than their arrival, since clocks differ; a time in the far future would expire other
rows."""
_MOMENTS = [pa.field(name, ARROW_TYPES["timestamp"]) for name in (KAFKA_AT, RECEIVED_AT)]


def key_schema(topic: Any, names: Sequence[str]) -> KeySchema:
    """The key schema of some columns of a topic's source."""
    types = {column.name: column.type for column in topic.columns}
    return KeySchema(tuple(KeyColumn(name, DECLARED[types[name]]) for name in names))


def encode_event_keys(schema: KeySchema, events: pa.Table) -> list[bytes | None]:
    """Encode the key of each event; None if a column is null or its value is no valid key."""
    columns = [_column_values(events[name]) for name in schema.names]
    if not any(events[name].null_count for name in schema.names):
        try:
            return list(encode_columns(schema, columns))
        except InputError:
            pass
    return [_encode_one(schema, values) for values in zip(*columns, strict=True)]


def _column_values(column: pa.ChunkedArray) -> Any:
    if pa.types.is_integer(column.type) and not column.null_count:
        return column.to_numpy()
    return column.to_pylist()


def _encode_one(schema: KeySchema, values: Sequence[Any]) -> bytes | None:
    try:
        return None if any(value is None for value in values) else encode_key(schema, values)
    except InputError:
        return None


def convert_values(column: Column, values: Sequence[Any]) -> list[Any]:
    """Convert values to what `forecache.lake.ingest.cast.cast` would make of their texts; null is None.

    Values of another type, missing required ones and those outside the limits are NOT_TAKEN.
    """
    take, kinds = _TAKE[column.type], set(map(type, values))
    if kinds <= _AS_THEY_ARE.get(column.type, set()):
        found = list(values)
    else:
        found = [take(value) if value is not None else None for value in values]
    if column.required:
        found = [NOT_TAKEN if value is None else value for value in found]
    if column.minimum is not None or column.maximum is not None:
        low, high = column.minimum, column.maximum
        found = [value if value is None or _is_within_limits(value, low, high) else NOT_TAKEN for value in found]
    return found


def _is_within_limits(value: Any, low: float | None, high: float | None) -> bool:
    return value is not NOT_TAKEN and not is_below(value, low) and not is_above(value, high)


def _integer_converter(bits: int) -> Callable[[Any], Any]:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return lambda value: value if type(value) is int and low <= value <= high else NOT_TAKEN


def _convert_double(value: Any) -> Any:
    if type(value) is float and math.isfinite(value):
        return value
    return float(value) if type(value) is int else NOT_TAKEN


def _converter_of(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if type(value) is kind else NOT_TAKEN


def _convert_date(value: Any) -> Any:
    try:
        if type(value) is str and _DATE.fullmatch(value):
            value = date.fromisoformat(value)
        return (value - _EPOCH).days if type(value) is date else NOT_TAKEN
    except ValueError:
        return NOT_TAKEN


def _convert_timestamp(value: Any) -> Any:
    if type(value) is datetime:
        return (value - _UTC_EPOCH) // _US if value.tzinfo is not None else NOT_TAKEN
    found = _MOMENT.fullmatch(value) if type(value) is str else None
    if found is None:
        return NOT_TAKEN
    day, time, part, zone = found.groups()
    try:
        at = datetime.fromisoformat(f"{day}T{time}+00:00")
    except ValueError:
        return NOT_TAKEN
    micros = (at - _UTC_EPOCH) // _US + int((part or "").ljust(6, "0"))
    if zone is not None and zone != "Z":
        ahead = (int(zone[1:3]) * 60 + int(zone[4:6])) * 60_000_000
        micros -= ahead if zone[0] == "+" else -ahead
    return micros if _FIRST_US <= micros <= _LAST_US else NOT_TAKEN


_TAKE: Mapping[str, Callable[[Any], Any]] = {
    "string": _converter_of(str),
    "int": _integer_converter(32),
    "bigint": _integer_converter(64),
    "double": _convert_double,
    "boolean": _converter_of(bool),
    "date": _convert_date,
    "timestamp": _convert_timestamp,
}


@dataclass(frozen=True)
class JudgedMessages:
    events: pa.Table  # partition, offset, kafka_at, event_day, received_at, and the topic's columns
    bad: pa.Table  # `forecache.stream.table.schema.QUARANTINE`
    unknown: int = 0  # events that have members that are not declared, which are left out


class EventJudge:
    """Judges the messages of a stream's topic; it can be pickled.

    Paths of schema files are relative to `folder`. SettingsError if the schema cannot be read, or has other columns.
    """

    def __init__(self, stream: Any, folder: Path) -> None:
        topic = stream.topic
        self._decoder = AvroDecoder(topic, folder) if isinstance(topic.format, Avro) else JsonDecoder(topic)
        self._plans = [
            plan for plan in map(build_merge_plan, stream.views) if not _fits_exact_sums(plan, topic.columns)
        ]
        self._row_key = key_schema(topic, stream.key) if stream.key else None
        self._view_keys = [key_schema(topic, view.key) for view in stream.views]
        self._columns = self._decoder.columns
        self._names = [column.name for column in self._columns]
        self._time = self._names.index(topic.source.event_time)
        self._counts_days = self._columns[self._time].type == "date"
        self._where = [pa.field(PARTITION, pa.int32()), pa.field(OFFSET, pa.int64()), *(_MOMENTS[:1])]
        self.schema = pa.schema([*self._where, pa.field(EVENT_DAY, pa.date32()), *_MOMENTS[1:], *event_fields(topic)])

    def __call__(self, messages: pa.Table) -> JudgedMessages:
        """Judge `forecache.stream.table.schema.MESSAGES`."""
        values: list[bytes | None] = messages["value"].to_pylist()
        received = microseconds(messages[RECEIVED_AT]).tolist()
        columns, reasons, unknown = self._convert_messages(values)
        times = columns[self._time]
        for place, (time, arrival) in enumerate(zip(times, received, strict=True)):
            if reasons[place] is None:
                reasons[place] = self._time_problem(time, arrival)
        good = [place for place, reason in enumerate(reasons) if reason is None]
        if len(good) < len(values):
            events = self._build_table(_take_rows(messages, good), [[column[i] for i in good] for column in columns])
        else:
            events = self._build_table(messages, columns)
        unfit = self._find_unfit_events(events)
        for place, reason in unfit.items():
            reasons[good[place]] = reason
        bad = [place for place, reason in enumerate(reasons) if reason is not None]
        if not bad:
            return JudgedMessages(events, QUARANTINE.empty_table(), unknown)
        kept = _take_rows(events, [i for i in range(events.num_rows) if i not in unfit]) if unfit else events
        told = _quarantine_rows(_take_rows(messages, bad), [reasons[i] or "" for i in bad])
        return JudgedMessages(kept, told, unknown)

    def _find_unfit_events(self, events: pa.Table) -> dict[int, str]:
        """Reasons, by place, for valid events that the stream cannot hold: too large for its sums, or without a key."""
        found: dict[int, str] = {}
        for plan in self._plans:
            for place in np.flatnonzero(cannot_sum(plan, add_missing_columns(events, plan.reads))).tolist():
                found[place] = f"a value is too large for the sums of the view {plan.view}: they take less than 2**44"
        for schema in self._view_keys:
            known = [events[name].is_valid() for name in schema.names]
            for place, key in enumerate(encode_event_keys(schema, events)):
                if key is None and all(column[place].as_py() for column in known):
                    found[place] = f"{', '.join(schema.names)} is empty or too long for a key"
        if self._row_key is not None:
            for place, key in enumerate(encode_event_keys(self._row_key, events)):
                if key is None:
                    found[place] = f"{', '.join(self._row_key.names)} is null, empty or too long for a key"
        return found

    def _convert_messages(self, values: Sequence[bytes | None]) -> tuple[list[list[Any]], list[str | None], int]:
        """Convert all messages: values by column, the problem of each or None, the number with undeclared members."""
        records = [None if value is None else self._decoder.read_record(value) for value in values]
        asked = {place for place, record in enumerate(records) if record is None}
        nothing: Mapping[str, Any] = dict.fromkeys(self._names)
        columns = []
        for column in self._columns:
            found = convert_values(
                column, [(nothing if record is None else record).get(column.name) for record in records]
            )
            asked.update(place for place, value in enumerate(found) if value is NOT_TAKEN)
            columns.append(found)
        known = set(self._names)
        unknown = sum(
            record is not None and place not in asked and not record.keys() <= known
            for place, record in enumerate(records)
        )
        reasons: list[str | None] = [None] * len(values)
        for place in asked:
            typed, reasons[place], has_more = self._judge_text(values[place])
            unknown += has_more
            for column_values, value in zip(columns, typed, strict=True):
                column_values[place] = value
        return columns, reasons, unknown

    def _judge_text(self, value: bytes | None) -> tuple[list[Any], str | None, bool]:
        nothing: list[Any] = [None] * len(self._columns)
        if not value:
            return nothing, "the message is empty", False
        if len(value) > MAX_ROW_BYTES:
            return nothing, f"the message has {len(value):,} bytes, more than {MAX_ROW_BYTES:,}", False
        try:
            texts, has_more = self._decoder.read_texts(value)
        except InvalidMessageError as error:
            return nothing, str(error), False
        typed, reason = judge_texts(self._columns, texts)
        return typed, reason, has_more and reason is None

    def _time_problem(self, time: int | None, received_us: int) -> str | None:
        name = self._names[self._time]
        if time is None:
            return f"{name} is missing"
        if (time * _DAY_US if self._counts_days else time) > received_us + AHEAD_US:
            return f"{name} is more than {AHEAD_US // 60_000_000} minutes after the message was received"
        return None

    def _build_table(self, messages: pa.Table, columns: Sequence[Sequence[Any]]) -> pa.Table:
        made = [_make_array(values, column.type) for column, values in zip(self._columns, columns, strict=True)]
        times = columns[self._time]
        days = times if self._counts_days else [time // _DAY_US for time in times]
        where = [messages[PARTITION], messages[OFFSET], messages[KAFKA_AT]]
        return pa.table([*where, _make_array(days, "date"), messages[RECEIVED_AT], *made], schema=self.schema)


def _fits_exact_sums(plan: MergePlan, columns: Sequence[Column]) -> bool:
    """True if the declared limits of the summed columns exclude values that are too large for exact sums."""
    summed = {state.column for state in (*plan.day_states, *plan.minute_states) if state.aggregate == "sum"}
    return all(
        column.type == "int"
        or (column.minimum is not None and column.maximum is not None and column.minimum > -_SUMMED
            and column.maximum < _SUMMED)
        for column in columns
        if column.name in summed
    )  # fmt: skip


def _make_array(values: Sequence[Any], kind: str) -> pa.Array:
    if kind == "date":
        return pa.array(values, pa.int32()).cast(pa.date32())
    if kind == "timestamp":
        return pa.array(values, pa.int64()).cast(ARROW_TYPES[kind])
    return pa.array(values, ARROW_TYPES[kind])


def _take_rows(rows: pa.Table, places: Sequence[int]) -> pa.Table:
    return rows.take(pa.array(places, pa.int64()))


def _quarantine_rows(messages: pa.Table, reasons: Sequence[str]) -> pa.Table:
    where, content = [messages[PARTITION], messages[OFFSET]], [messages["value"], messages[RECEIVED_AT]]
    return pa.table([*where, pa.array(reasons, pa.string()), *content], schema=QUARANTINE)
