"""Hashes of the keys that are requested of each night, so that a join computes features of these keys only.

A key that is not requested but has the same hash as one that is gets computed too; the join drops it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecache.base.hashes import row_hashes

Hashes = NDArray[np.uint64]
_AS_OF = "as_of"


@dataclass(frozen=True)
class KeyHashesByNight:
    """For each night the hashes of its keys, ascending."""

    nights: Mapping[date, Hashes]

    def is_requested_on(self, night: date, hashes: Hashes) -> NDArray[np.bool_]:
        """Mask of the keys that are requested on a night, bool [n]."""
        return _is_member(self.nights.get(night, np.zeros(0, np.uint64)), hashes)

    def is_ever_requested(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Mask of the keys that are requested on any night, bool [n]."""
        return _is_member(self._all, hashes)

    @cached_property
    def _all(self) -> Hashes:
        return np.unique(np.concatenate([np.zeros(0, np.uint64), *self.nights.values()]))


def hash_requested_keys(rows: pa.Table, key: Sequence[str], types: pa.Schema) -> KeyHashesByNight | None:
    """Hash the keys of rows with `as_of`, by night, with the types that they have in the tiles.

    None, which means all keys, if the column types do not fit; the join reports that later.
    """
    rows = rows.set_column(rows.schema.get_field_index(_AS_OF), _AS_OF, rows[_AS_OF].cast(pa.date32()))
    for name in key:
        rows = _drop_out_of_range(rows, name, types.field(name).type)
    try:
        keys = pa.table({name: rows[name].cast(types.field(name).type) for name in key})
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    days, hashes = rows[_AS_OF].cast(pa.int32()).to_numpy(), key_hashes(keys, key)
    nights = pc.unique(rows[_AS_OF].drop_null())
    numbers = nights.cast(pa.int32()).to_numpy()
    return KeyHashesByNight(
        {night: np.unique(hashes[days == number]) for night, number in zip(nights.to_pylist(), numbers, strict=True)}
    )


def key_hashes(rows: pa.Table, key: Sequence[str]) -> Hashes:
    """Hashes of keys, uint64 [n]."""
    return row_hashes([rows[name].combine_chunks() for name in key])


def _drop_out_of_range(rows: pa.Table, name: str, wanted: pa.DataType) -> pa.Table:
    """Drop rows whose integer does not fit the tiles' smaller type, as no tile has such a key."""
    held = rows[name].type
    if not (pa.types.is_integer(held) and pa.types.is_integer(wanted)) or held.bit_width <= wanted.bit_width:
        return rows
    most = (1 << (wanted.bit_width - 1)) - 1
    numbers = rows[name]
    return rows.filter(pc.and_(pc.greater_equal(numbers, -most - 1), pc.less_equal(numbers, most)))


def _is_member(known: Hashes, hashes: Hashes) -> NDArray[np.bool_]:
    if not len(known):
        return np.zeros(len(hashes), bool)
    places = np.searchsorted(known, hashes)
    return known[np.minimum(places, len(known) - 1)] == hashes
