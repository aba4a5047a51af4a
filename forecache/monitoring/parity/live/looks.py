"""What a log says of look-ups of live views: the moment, and up to where they saw the stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.store.encoding.streamed_rows import PLACES_OF_A_COMMIT


@dataclass(slots=True)
class Look:
    """A look-up of a live view by one request.

    Attributes:
        at_us: In microseconds of Unix time.
        position: Its keys had the rows of the stream's table up to this Delta version.
        layer: Names the declaration of the live layer.
        pending: By the place of a key, the offset of each partition behind the rows that it had instead.
        bounds: By the place of such a key, the moment of its last row, once that is known.
    """

    view: str
    at_us: int
    position: int
    layer: str
    pending: Mapping[int, Sequence[int]]
    bounds: dict[int, int] = field(default_factory=dict)

    def bounds_of(self, num_keys: int) -> np.ndarray:
        """Of each key the largest moment of a row that it had, int64 [num_keys]."""
        found = np.full(num_keys, (self.position + 1) * PLACES_OF_A_COMMIT - 1, np.int64)
        for place, bound in self.bounds.items():
            found[place] = bound
        return found


def looks_of(logged: Sequence[Mapping[str, Any]] | None) -> dict[str, Look] | None:
    """By look-up what a record says; None where it is of a log that did not say it."""
    if logged is None:
        return None
    return {
        each["lookup"]: Look(
            each["view"], each["at_us"], each["position"], each["layer"],
            {one["key"]: one["offsets"] for one in each["pending"] or ()},
        )
        for each in logged
    }  # fmt: skip


@dataclass(frozen=True)
class Need:
    """Which rows of a stream's table the answers of a day are computed from.

    Attributes:
        first_day: The oldest as-of date that was merged: no event of an earlier day counts.
        up_to: The largest position; None: keys had rows that were not committed yet, all positions are needed.
    """

    first_day: date
    up_to: int | None

    def merge(self, other: "Need") -> "Need":
        both = None if self.up_to is None or other.up_to is None else max(self.up_to, other.up_to)
        return Need(min(self.first_day, other.first_day), both)


def needs_of(stores: pa.ListArray, live: pa.ListArray) -> dict[str, Need]:
    """By view, what these records need."""
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
        if each["view"] in by_view:  # else no answer of the model names its version
            night = date.fromisoformat(by_view[each["view"]])
            found[each["view"]] = Need(night, None if each["pending_max"] else each["position_max"])
    return found
