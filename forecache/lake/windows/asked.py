"""The keys that nights are asked for, by their hashes: a join of some keys needs no more of a night than those.

A key that is not asked for and has the hash of another one is computed too, which the join leaves out again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecache.hashes import row_hashes

Hashes = NDArray[np.uint64]
_AS_OF = "as_of"


@dataclass(frozen=True)
class Asked:
    """For each night the hashes of its keys, ascending."""

    nights: Mapping[date, Hashes]

    def on(self, night: date, hashes: Hashes) -> NDArray[np.bool_]:
        """Which of some keys a night is asked for, bool [n]."""
        return _among(self.nights.get(night, np.zeros(0, np.uint64)), hashes)

    def ever(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which of some keys any night is asked for, bool [n]."""
        return _among(self._all, hashes)

    @cached_property
    def _all(self) -> Hashes:
        return np.unique(np.concatenate([np.zeros(0, np.uint64), *self.nights.values()]))


def asked_of(rows: pa.Table, key: Sequence[str], types: pa.Schema) -> Asked | None:
    """What rows of the key columns and `as_of` ask for; None, all, where the columns are of types that do not fit,
    which whoever joins them says.

    Args:
        types: Of the key columns in the tiles, which the hashes are of.
    """
    rows = rows.set_column(rows.schema.get_field_index(_AS_OF), _AS_OF, rows[_AS_OF].cast(pa.date32()))
    for name in key:
        rows = _within(rows, name, types.field(name).type)
    try:
        keys = pa.table({name: rows[name].cast(types.field(name).type) for name in key})
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    days, hashes = rows[_AS_OF].cast(pa.int32()).to_numpy(), key_hashes(keys, key)
    nights = pc.unique(rows[_AS_OF].drop_null())
    numbers = nights.cast(pa.int32()).to_numpy()
    return Asked(
        {night: np.unique(hashes[days == number]) for night, number in zip(nights.to_pylist(), numbers, strict=True)}
    )


def key_hashes(rows: pa.Table, key: Sequence[str]) -> Hashes:
    """uint64 [n]."""
    return row_hashes([rows[name].combine_chunks() for name in key])


def _within(rows: pa.Table, name: str, wanted: pa.DataType) -> pa.Table:
    """The rows whose whole number a smaller type can hold: no tile has a key beyond."""
    held = rows[name].type
    if not (pa.types.is_integer(held) and pa.types.is_integer(wanted)) or held.bit_width <= wanted.bit_width:
        return rows
    most = (1 << (wanted.bit_width - 1)) - 1
    numbers = rows[name]
    return rows.filter(pc.and_(pc.greater_equal(numbers, -most - 1), pc.less_equal(numbers, most)))


def _among(known: Hashes, hashes: Hashes) -> NDArray[np.bool_]:
    if not len(known):
        return np.zeros(len(hashes), bool)
    places = np.searchsorted(known, hashes)
    return known[np.minimum(places, len(known) - 1)] == hashes
