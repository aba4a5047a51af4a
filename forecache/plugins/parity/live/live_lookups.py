"""Logged look-ups of live views: their time, and the last row of the stream that they included."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.serve.store.encoding.streamed_rows import PLACES_OF_A_COMMIT


@dataclass(slots=True)
class LiveLookup:
    """A look-up of a live view by one request.

    Attributes:
        at_us: Microseconds of Unix time.
        position: Its keys had the rows of the stream's table up to this Delta version.
        layer: Hash of the declaration of the live layer.
        pending: By the place of a key that had pending rows instead, the offset of each partition after these rows.
        bounds: By the place of such a key, the moment of its last row, once it is known.
    """

    view: str
    at_us: int
    position: int
    layer: str
    pending: Mapping[int, Sequence[int]]
    bounds: dict[int, int] = field(default_factory=dict)

    def bounds_of(self, num_keys: int) -> np.ndarray:
        """Return for each key the largest moment of a row that it had, int64 [num_keys]."""
        found = np.full(num_keys, (self.position + 1) * PLACES_OF_A_COMMIT - 1, np.int64)
        for place, bound in self.bounds.items():
            found[place] = bound
        return found


def read_live_lookups(logged: Sequence[Mapping[str, Any]] | None) -> dict[str, LiveLookup] | None:
    """Read the live look-ups of a log record by their names; None if the log did not record them yet."""
    if logged is None:
        return None
    return {
        each["lookup"]: LiveLookup(
            each["view"], each["at_us"], each["position"], each["layer"],
            {one["key"]: one["offsets"] for one in each["pending"] or ()},
        )
        for each in logged
    }  # fmt: skip


@dataclass(frozen=True)
class NeededRows:
    """The rows of a stream's table that are needed to compute the answers of a day.

    Attributes:
        first_day: The oldest as-of date that was merged: events of earlier days are not needed.
        up_to: The largest position; None: all positions, since keys had rows that were not committed yet.
    """

    first_day: date
    up_to: int | None

    def merge(self, other: "NeededRows") -> "NeededRows":
        both = None if self.up_to is None or other.up_to is None else max(self.up_to, other.up_to)
        return NeededRows(min(self.first_day, other.first_day), both)


def needed_rows_of(stores: pa.ListArray, live: pa.ListArray) -> dict[str, NeededRows]:
    """Return by view the rows that log records need."""
    looked = live.flatten()
    if not len(looked):
        return {}
    named = stores.flatten()
    nights = pa.table({"view": named.field("name"), "night": named.field("as_of")})
    first = nights.group_by("view").aggregate([("night", "min")])
    by_view = dict(zip(first["view"].to_pylist(), first["night_min"].to_pylist(), strict=True))
    pending = pc.fill_null(pc.list_value_length(looked.field("pending")), 0)
    looks = pa.table({"view": looked.field("view"), "position": looked.field("position"), "pending": pending})
    found = {}
    for each in looks.group_by("view").aggregate([("position", "max"), ("pending", "max")]).to_pylist():
        if each["view"] in by_view:  # else no answer names a version of the view
            night = date.fromisoformat(by_view[each["view"]])
            found[each["view"]] = NeededRows(night, None if each["pending_max"] else each["position_max"])
    return found
