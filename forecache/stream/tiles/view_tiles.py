"""The tiles of a stream's live views: adds each event to the tiles of its key, and computes its features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.declare import FeatureView
from forecache.declare.streams.merge_plan import build_merge_plan
from forecache.kit.windows.fold import event_states, fold
from forecache.kit.windows.merger import merger_of
from forecache.kit.windows.states import microseconds
from forecache.serve.store.keys import KeySchema
from forecache.stream.events.event_judge import encode_event_keys
from forecache.stream.table.schema import add_missing_columns
from forecache.stream.tiles.batch_states import BatchState

_EPOCH = date(1970, 1, 1)
_BLOCK_KEYS = 10_000
Bases = Callable[[FeatureView], BatchState]
Touched = list[tuple[bytes, int, bytes]]


@dataclass(frozen=True)
class ViewFeatures:
    """The features of a view for n events of a batch."""

    features: NDArray[np.float32]  # float32 [n, d]; NaN for unknown values
    found: NDArray[np.bool_]  # bool [n], True if the key has a state or tiles
    base: str  # `<view>=` and the name of the batch state
    as_of: date  # of the batch state
    touched: Touched  # each key of the batch once, with the time of its newest event in it and its tiles


class ViewTiles:
    """The tiles of one view: by key, its encoded tiles in `entries`.

    `keys` has the keys of all entries, and perhaps of some that were removed. The list is replaced if keys are dropped,
    else only appended to, so that another thread may iterate over it.
    """

    def __init__(self, view: FeatureView, key: KeySchema, see: Literal["before", "after"]) -> None:
        self.view, self.plan = view, build_merge_plan(view)
        self.entries: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self._key: KeySchema = key
        self._as_of = _EPOCH
        self._see: Literal["before", "after"] = see

    @property
    def complete_from(self) -> int:
        """The first day, in days since 1970, from which on no tile is missing; older ones were dropped."""
        return self._first_day(self._as_of)

    def move_base_to(self, as_of: date) -> None:
        """Move to the batch state of a date if it is newer, and drop the keys whose tiles it does not need."""
        if as_of > self._as_of:
            self._as_of = as_of
            self._drop_expired_keys(as_of)

    def clear(self) -> None:
        self.entries, self.keys = {}, []

    def restore(self, keys: Sequence[bytes], tiles: Sequence[bytes]) -> None:
        """Set the tiles of keys; tiles of days that the batch state does not need are left out."""
        needed = merger_of(self.plan).tiles.drop_before(tiles, self.complete_from)
        for key, entry in zip(keys, needed, strict=True):
            if entry is None:
                self.entries.pop(key, None)
                continue
            if key not in self.entries:
                self.keys.append(key)
            self.entries[key] = entry

    def _first_day(self, as_of: date) -> int:
        return (as_of - _EPOCH).days - self.plan.nights + 1

    def _drop_expired_keys(self, as_of: date) -> None:
        """Drop keys all of whose tiles are too old to be needed, so that memory does not grow for ever."""
        first = self._first_day(as_of)
        tiles, keys = merger_of(self.plan).tiles, list(self.entries)
        for start in range(0, len(keys), _BLOCK_KEYS):
            some = keys[start : start + _BLOCK_KEYS]
            days, _ = tiles.decode([self.entries[key] for key in some])
            needed = np.bincount(days.owner[days.number >= first], minlength=len(some))
            for place in np.flatnonzero(needed == 0).tolist():
                del self.entries[some[place]]
        self.keys = list(self.entries)

    def add_events(self, events: pa.Table, base: BatchState, *, sees: bool = True) -> ViewFeatures:
        """Add events in their order, and compute their features, which stay unknown without `sees`."""
        self.move_base_to(base.as_of)
        keys = encode_event_keys(self._key, events)
        places = np.array([place for place, key in enumerate(keys) if key is not None], np.intp)
        numbers: dict[bytes, int] = {}
        codes = np.array([numbers.setdefault(key, len(numbers)) for key in keys if key is not None], np.int64)
        distinct = list(numbers)
        features = np.full((len(keys), len(self.plan.features)), np.nan, np.float32)
        found = np.zeros(len(keys), np.bool_)
        touched: Touched = []
        if distinct:
            chosen = self._tile_columns(events, None if len(places) == len(keys) else places)
            at_us = microseconds(chosen[self.plan.time])
            held = [self.entries.get(key) for key in distinct]
            folded = fold(
                self.plan,
                codes,
                at_us,
                event_states(self.plan, chosen),
                held,
                *(base.read_words(distinct) if sees else (None, None)),
                base.as_of,
                see=self._see if sees else "nothing",
            )
            if sees:
                features[places], found[places] = folded.features, folded.found
            self.entries.update(zip(distinct, folded.entries, strict=True))
            self.keys += [key for key, entry in zip(distinct, held, strict=True) if entry is None]
            touched = list(zip(distinct, _newest_times(codes, at_us, len(distinct)), folded.entries, strict=True))
        return ViewFeatures(features, found, f"{self.view.name}={base.name}", base.as_of, touched)

    def _tile_columns(self, events: pa.Table, places: NDArray[np.intp] | None) -> pa.Table:
        """The events at some places (None: all) with the columns that tiles are made from."""
        chosen = events if places is None else events.take(pa.array(places))
        return add_missing_columns(chosen, self.plan.reads).select(list(self.plan.reads))


def _newest_times(codes: NDArray[np.int64], at_us: NDArray[np.int64], num_keys: int) -> list[int]:
    newest = np.full(num_keys, np.iinfo(np.int64).min)
    np.maximum.at(newest, codes, at_us)
    found: list[int] = newest.tolist()
    return found
