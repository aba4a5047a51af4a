"""Computes a stream's table again from its own rows, and compares the result with the rows.

An answer depends on the rows before it and on the batch states and the model or release that its row names, not on
batches, engines or the time. So the same step gives the same bits again, or something is wrong.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.declare import FeatureView, Stream
from forecache.declare.stream import FEATURES
from forecache.kit.delta.files import DataFile, place_of, read_file_rows
from forecache.kit.delta.log import active_files, open_if_exists
from forecache.plugins.backfill.lake_states import LakeStates, MissingState
from forecache.plugins.compare_tables import ValueDifference, first_difference
from forecache.stream.step import StreamStep, answerer_of, switch_to_newest
from forecache.stream.table.schema import (
    EVENT_DAY,
    FEATURE_VERSION,
    LATE,
    MODEL_VERSION,
    OFFSET,
    PARTITION,
    PLACE,
    POSITION,
    RELEASE,
    output_fields,
)
from forecache.stream.tiles.batch_states import BatchState

if TYPE_CHECKING:
    from deltalake import DeltaTable

_STANDS_ON = (FEATURE_VERSION, RELEASE, MODEL_VERSION)
_MOST_ROWS = 1 << 17
_PlacedFile = tuple[int, int, DataFile]  # a file with the first and the last position of its rows


@dataclass(frozen=True)
class RowDifference:
    """The first row whose values differ from those computed again."""

    position: int
    place: int
    partition: int
    offset: int
    key: Mapping[str, Any]  # by column, the values that identify the row
    column: str  # the first one that differs; "row" if the row was dropped as a duplicate
    there: Any  # the value in the table; `here`: the one computed again
    here: Any


@dataclass(frozen=True)
class RecomputeResult:
    rows: int
    compared: int  # all rows except those whose batch state or release no longer exists
    seconds: float
    gone: tuple[str, ...] = field(default=())  # batch states and releases that no longer exist
    difference: RowDifference | None = None  # None if every bit is equal


def recompute(settings: Settings, stream: Stream) -> RecomputeResult:
    """Compute the rows of a stream's table again and compare every bit, up to the first difference.

    NotFoundError if the stream has no table.
    """
    started, again = time.perf_counter(), _Recomputation(settings, stream)
    rows = compared = 0
    difference = None
    with closing(again):
        for part in _split_by_state(read_ordered_rows(settings, stream.table)):
            rows += part.num_rows
            is_comparable, difference = again.compare(part)
            compared += part.num_rows if is_comparable else 0
            if difference is not None:
                break
    if not rows:
        raise NotFoundError(f"The stream {stream.name!r} has no rows.", remedy=f"Run `forecache stream {stream.name}`.")
    seconds = time.perf_counter() - started
    return RecomputeResult(rows, compared, seconds, tuple(sorted(again.gone)), difference)


class _Recomputation:
    """Computes all rows with one step, each with the batch states and the release that it names."""

    def __init__(self, settings: Settings, stream: Stream) -> None:
        self.gone = set[str]()
        self._settings, self._stream = settings, stream
        self._nights, self._by_view = LakeStates(settings, stream), dict[str, BatchState]()
        self._step = StreamStep(settings, stream, bases=self._state_of)
        self._answering: dict[int | None, Any] = {}
        outputs = [each.name for each in output_fields(stream.answers)]
        self._columns = [EVENT_DAY, *outputs, MODEL_VERSION, RELEASE, FEATURE_VERSION, LATE]

    def compare(self, rows: pa.Table) -> tuple[bool, RowDifference | None]:
        """Compute rows of one batch state and release again; returns whether they were compared, and a difference."""
        base, release, version = (rows[name][0].as_py() for name in _STANDS_ON)
        self._by_view = dict(self._nights.find_by_base(base or ""))
        gone = {f"{name}={night.name}" for name, night in self._by_view.items() if isinstance(night, MissingState)}
        answerer = self._find_answerer(release if release is not None else version)
        if answerer is None:
            gone.add(f"release {release}" if release is not None else f"model version {version}")
        self.gone |= gone
        if answerer is None:
            self._add_without_comparing(rows)
            return False, None
        self._step.answerer = answerer
        answered = self._step.answer(rows)
        self._step.repeats.confirm_commit(answered.rows, rows[POSITION][-1].as_py())
        if gone:
            return False, None
        if answered.rows.num_rows != rows.num_rows:
            return True, self._find_dropped_row(rows, answered.rows)
        found = self._first_difference(rows, answered.rows)
        if found is None:
            return True, None
        return True, self._row_difference(rows, found.row, found.column, found.there, found.here)

    def close(self) -> None:
        self._step.repeats.close()

    def _first_difference(self, rows: pa.Table, again: pa.Table) -> ValueDifference | None:
        columns = self._columns
        if FEATURES in again.column_names and FEATURES in rows.column_names:
            # Rows from before `keep_features` was declared have no features.
            kept = pc.if_else(rows[FEATURES].is_valid(), again[FEATURES], pa.scalar(None, again[FEATURES].type))
            again = again.set_column(again.column_names.index(FEATURES), FEATURES, kept)
            columns = [*columns, FEATURES]
        return first_difference(rows, again, columns)

    def _add_without_comparing(self, rows: pa.Table) -> None:
        new = rows.take(pa.array(self._step.repeats.find_new(rows), pa.int64()))
        self._step.repeats.confirm_commit(new, rows[POSITION][-1].as_py())
        for view in self._step.views.values():
            view.add_events(rows, self._state_of(view.view))

    def _state_of(self, view: FeatureView) -> BatchState:
        return self._by_view[view.name]

    def _find_answerer(self, number: int | None) -> Any:
        """Return the answerer of a release or model version; None if it no longer exists."""
        if number not in self._answering:
            made = answerer_of(self._settings, self._stream.answers, number=number)
            try:
                switch_to_newest(made)
                self._answering[number] = made
            except NotFoundError:
                self._answering[number] = None
        return self._answering[number]

    def _find_dropped_row(self, rows: pa.Table, kept: pa.Table) -> RowDifference:
        """The first row that the step dropped as a duplicate."""
        there, here = (zip(*(each[c].to_pylist() for c in (PARTITION, OFFSET)), strict=True) for each in (rows, kept))
        known = set(here)
        first = next(place for place, where in enumerate(there) if where not in known)
        return self._row_difference(rows, first, "row", "present", "a repeat of an earlier row")

    def _row_difference(self, rows: pa.Table, row: int, column: str, there: Any, here: Any) -> RowDifference:
        position, place, partition, offset = (rows[name][row].as_py() for name in (POSITION, PLACE, PARTITION, OFFSET))
        key = {name: rows[name][row].as_py() for name in self._stream.source.unique or self._stream.key}
        return RowDifference(position, place, partition, offset, key, column, there, here)


def _split_by_state(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Split ordered rows into parts of one batch state, release and model version each."""
    for rows in parts:
        changes = np.zeros(rows.num_rows, np.bool_)
        for name in _STANDS_ON:
            codes = rows[name].combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
            changes[1:] |= codes[1:] != codes[:-1]
        edges = np.flatnonzero(changes).tolist()
        for start, end in zip([0, *edges], [*edges, rows.num_rows], strict=True):
            for first in range(start, end, _MOST_ROWS):
                yield rows.slice(first, min(_MOST_ROWS, end - first))


def read_ordered_rows(settings: Settings, table: str) -> Iterator[pa.Table]:
    """Yield all rows sorted by position and place, in parts.

    A part has the rows of files whose positions overlap: of one commit or, once an hour is compacted, of an hour.
    """
    delta = open_if_exists(settings, table)
    if delta is None:
        return
    schema = pa.schema(delta.schema())
    filesystem = place_of(settings, table).open()
    for files in _group_overlapping(_list_files(delta)):
        rows = pa.Table.from_batches(read_file_rows(filesystem, table, files, schema), schema)
        yield rows.sort_by([(POSITION, "ascending"), (PLACE, "ascending")])


def _list_files(delta: "DeltaTable") -> list[_PlacedFile]:
    actions = delta.get_add_actions(flatten=True)
    bounds = (actions.column(f"{bound}.{POSITION}").to_pylist() for bound in ("min", "max"))
    return sorted(zip(*bounds, active_files(delta), strict=True), key=lambda placed: placed[0])


def _group_overlapping(placed: Sequence[_PlacedFile]) -> Iterator[list[DataFile]]:
    """Yield groups of files; the positions in a group are above those in the groups before."""
    group: list[DataFile] = []
    highest = -1
    for first, last, file in placed:
        if group and first > highest:
            yield group
            group = []
        group.append(file)
        highest = max(highest, last)
    if group:
        yield group
