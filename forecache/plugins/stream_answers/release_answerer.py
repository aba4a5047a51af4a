"""Answers events with a release of a real-time model, each as a request; the bits are those that a reader answers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.base.errors import ConflictError, InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.base.table_names import kept_name
from forecache.declare import Realtime
from forecache.declare.realtime.request import RequestField
from forecache.declare.realtime.request_rows import RequestArrays, Rows, column_of
from forecache.kit.versioned.pointer import read_pointer
from forecache.plugins.stream_answers.batch_answers import Matrix, UsedFeatures, describe_error, matrix_invariance_check
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.follow_lake import follow_bucket
from forecache.realtime.release.format import LookupContract
from forecache.realtime.release.load import LoadedRelease, load_release
from forecache.serve.store import Snapshot, open_store
from forecache.serve.store.keys import encode_columns
from forecache.stream.step import Answerer, EventAnswers
from forecache.stream.tiles.view_tiles import ViewFeatures

_LOOK_S, _LOOK_REMOTE_S = 1.0, 5.0  # a small file is read; an object of a bucket
MODEL = "model"  # the value of `answered_by` in rows that the model answered
RowsFound = tuple[NDArray[np.float32], NDArray[np.bool_]]  # rows of a look-up, and which keys were found


@dataclass
class EventScores:
    """Scores of n events."""

    values: NDArray[np.float64]  # [n], NaN for no score
    is_known: NDArray[np.bool_]  # [n]
    used: UsedFeatures  # also if the model failed on them
    failed: int = 0
    failure: str = ""  # the error of the last event whose transform or model failed


@dataclass
class RequestColumns:
    """The requests of n events, by column."""

    length: int
    names: tuple[str, ...]
    value: Callable[[str, int], Matrix]  # of a field and a place, [1]; InputError if a required one is missing
    columns: Mapping[str, Matrix] | None  # by field, the values [n]; None if an event lacks a required one
    views: Mapping[str, Matrix]  # by look-up, the features, float32 [n, d]
    found: Mapping[str, Matrix]  # by look-up, which were found, bool [n]


class EventScorer:
    def __init__(self, loaded: LoadedRelease) -> None:
        self._loaded = loaded
        self._transform, self._model = matrix_invariance_check("transform"), matrix_invariance_check("model")

    def score(self, asked: RequestColumns) -> EventScores:
        n = asked.length
        d = len(self._loaded.release.features)
        used = UsedFeatures(np.full((n, d), np.nan, np.float32), np.zeros(n, np.bool_))
        scored = EventScores(np.full(n, np.nan), np.zeros(n, np.bool_), used)
        if asked.columns is not None and n:
            try:
                scored.values[:] = self._score_together(asked, asked.columns, used)
                scored.is_known[:] = ~np.isnan(scored.values)
                return scored
            except Exception:  # noqa: BLE001, S110  # raised again below for the event that causes it
                pass
        for place in range(n):
            try:
                features = self._features_alone(asked, place)
                used.matrix[place], used.known[place] = features[0], True
                scored.values[place] = self._loaded.scores_of(features)[0]
            except Exception as error:  # noqa: BLE001  # of the model's library: no event may stop a stream
                scored.failed, scored.failure = scored.failed + 1, describe_error(error)
        scored.is_known[:] = ~np.isnan(scored.values)
        return scored

    def _score_together(self, asked: RequestColumns, columns: Mapping[str, Matrix], used: UsedFeatures) -> Matrix:
        def compute_together() -> Matrix:
            rows = self._loaded.builder.build_rows(RequestArrays(asked.length, columns), asked.views, asked.found)
            return self._loaded.features_of(rows)

        features = self._transform.compute(
            asked.length, compute_together, lambda place: self._features_alone(asked, place)
        )
        used.matrix[:], used.known[:] = features, True
        return self._model.compute(
            asked.length,
            lambda: self._loaded.scores_of(features),
            lambda place: self._loaded.scores_of(features[place : place + 1]),
        )

    def _features_alone(self, asked: RequestColumns, place: int) -> Matrix:
        columns = RequestArrays(1, {name: asked.value(name, place) for name in asked.names})
        views = {called: each[place : place + 1] for called, each in asked.views.items()}
        found = {called: each[place : place + 1] for called, each in asked.found.items()}
        rows: Rows = self._loaded.builder.build_rows(columns, views, found)
        return self._loaded.features_of(rows)


class ReleaseAnswerer(Answerer):
    """Answers with the current release; if the lake is in a bucket, with that of all machines."""

    def __init__(self, settings: Settings, model: Realtime, number: int | None) -> None:
        self._settings, self._model, self._number = settings, model, number
        self.look_every_s = _LOOK_REMOTE_S if settings.lake_is_remote else _LOOK_S
        self._folder = open_releases(settings, model.name)
        self._loaded: LoadedRelease | None = None
        self._live = {lookup.view.name: lookup.view for lookup in model.lookups if lookup.view.live is not None}
        self._columns = {name: view.served_columns for name, view in self._live.items()}
        self._stores: dict[str, _PublishedView] = {}

    def find_newer(self) -> LoadedRelease | None:
        if self._number is None:
            with suppress(ConflictError):  # another process here is changing the releases
                follow_bucket(self._settings, self._folder)
        wanted = self._number if self._number is not None else read_pointer(self._folder).current
        if wanted is None:
            raise NotFoundError(
                f"The real-time model {self._model.name!r} has no release that could answer.",
                remedy=f"Make one: `forecache release build {self._model.name}`.",
            )
        if wanted == self.release:
            return None
        loaded = load_release(self._folder, wanted)
        try:
            self._check_contracts(loaded)
        except BaseException:
            loaded.close()
            raise
        return loaded

    def _check_contracts(self, loaded: LoadedRelease) -> None:
        """Refuse a release whose model was trained with other live features than the stream computes."""
        release = loaded.release
        for lookup in release.lookups:
            view = self._live.get(lookup.view)
            if view is not None and view.packed.contract != lookup.contract and release.on_contract == "refuse":
                raise InputError(
                    f"Release {release.number} of {release.name} was trained with other features of the view "
                    f"{lookup.view!r} than the stream makes.",
                    remedy=f"Release it again with what is declared: `forecache release build {release.name}`.",
                )
            if view is not None and lookup.by != view.key:
                raise InputError(
                    f"Release {release.number} of {release.name} looks up the live view {lookup.view!r} by "
                    f"{', '.join(lookup.by)}, and a stream keeps it by {', '.join(view.key)}.",
                    remedy="Look it up by its own key.",
                )

    def switch_to(self, found: LoadedRelease) -> None:
        before, self._loaded, self._scorer = self._loaded, found, EventScorer(found)
        self.release = found.release.number
        if before is not None:
            before.close()

    def answer(self, events: pa.Table, seen: Mapping[str, ViewFeatures]) -> EventAnswers:
        loaded = self._loaded
        assert loaded is not None, "nothing was taken up"
        release, n = loaded.release, events.num_rows
        fields = {each.name: _RequestColumn(each, events) for each in release.request}
        lookups = [(each.called, *self._look_up(each, events, seen)) for each in release.lookups]
        whole = {name: each.column for name, each in fields.items() if each.column is not None}
        scored = self._scorer.score(
            RequestColumns(
                n,
                tuple(fields),
                lambda name, place: fields[name].value(place),
                whole if len(whole) == len(fields) else None,
                {called: features for called, features, _ in lookups},
                {called: known for called, _, known in lookups},
            )
        )
        item_answered_by = pa.array([MODEL if known else None for known in scored.is_known.tolist()], pa.string())
        columns_of = [pa.array(scored.values, pa.float64(), mask=~scored.is_known), item_answered_by]
        used = scored.used.to_lists
        return EventAnswers(columns_of, release.model.version, release.number, scored.failed, scored.failure, used)

    def _look_up(self, lookup: LookupContract, events: pa.Table, seen: Mapping[str, ViewFeatures]) -> RowsFound:
        if lookup.view in self._live:
            of_view = seen[lookup.view]
            return _order_columns(self._columns[lookup.view], of_view.features, lookup.columns), of_view.found
        name = kept_name(lookup.view, lookup.contract)
        if name not in self._stores:
            self._stores[name] = _PublishedView(self._settings, lookup)
        return self._stores[name].matrix(lookup, events)


@dataclass
class _RequestColumn:
    """A field of the requests of all events of a batch."""

    field: RequestField
    events: pa.Table

    def __post_init__(self) -> None:
        self.column: np.ndarray | None = None
        """The values of all events [n]; None if a required value is missing."""
        values = self._values()
        try:
            self.column = column_of(self.field, values)
        except InputError:
            self._given: Sequence[Any] = values.tolist() if isinstance(values, np.ndarray) else values

    def _values(self) -> Any:
        if self.field.name not in self.events.column_names:
            return [None] * self.events.num_rows
        column = self.events[self.field.name]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us"))
        if column.null_count or not (pa.types.is_integer(column.type) or pa.types.is_timestamp(column.type)):
            return column.to_pylist()
        values = column.to_numpy()
        return values.astype(np.int64) if values.dtype.kind == "i" else values

    def value(self, place: int) -> np.ndarray:
        """The value of an event [1]; raises InputError if it is null and the field is required."""
        if self.column is not None:
            return self.column[place : place + 1]
        return column_of(self.field, [self._given[place]])


class _PublishedView:
    """A view without a live layer, at its served version, or at that of the kept contract that a model needs."""

    def __init__(self, settings: Settings, lookup: LookupContract) -> None:
        names = (lookup.view, kept_name(lookup.view, lookup.contract))
        self._stores = [open_store(settings, name) for name in names]
        self._snapshots: dict[str, Snapshot] = {}

    def _open(self, contract: str) -> Snapshot | None:
        for store in self._stores:
            serving, found = store.pointer().serving, self._snapshots.get(store.pipeline)
            if serving is None:
                continue
            if found is None or found.manifest.version != serving:
                found = self._snapshots[store.pipeline] = store.snapshot()
            if found.manifest.contract == contract:
                return found
        return self._snapshots.get(self._stores[0].pipeline)

    def matrix(self, lookup: LookupContract, events: pa.Table) -> RowsFound:
        nothing = (
            np.full((events.num_rows, len(lookup.columns)), np.nan, np.float32),
            np.zeros(events.num_rows, np.bool_),
        )
        snapshot = self._open(lookup.contract)
        if snapshot is None or not snapshot.manifest.is_packed:
            return nothing
        columns = [events[name].to_pylist() for name in lookup.by]
        there = [i for i, values in enumerate(zip(*columns, strict=True)) if None not in values]
        if not there:
            return nothing
        keys = encode_columns(snapshot.manifest.key, [[column[i] for i in there] for column in columns])
        matrix, found = snapshot.matrix(keys)
        nothing[0][there], nothing[1][there] = _order_columns(snapshot.columns, matrix, lookup.columns), found
        return nothing


def _order_columns(columns: Sequence[str], matrix: NDArray[np.float32], wanted: Sequence[str]) -> NDArray[np.float32]:
    """Select the columns that a model was trained with; a missing one is NaN."""
    if tuple(columns) == tuple(wanted):
        return matrix
    known = {name: place for place, name in enumerate(columns)}
    places = np.array([known.get(name, -1) for name in wanted])
    found: NDArray[np.float32] = np.where(places >= 0, matrix[:, places], np.float32(np.nan))
    return found
