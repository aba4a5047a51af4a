"""Interactions of users with items, with weight and day: the input of every recommender."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.base import output_kinds as key_types
from forecache.base.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Codes = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions of users with items, in any order; a pair may occur several times.

    Users and items are codes, the positions of their keys in the vocabularies. A row takes 20 bytes.

    Attributes:
        users, items: Codes, int32 [n].
        weights: Weight of each interaction, float32 [n]: finite, 0 or more.
        days: Day of each in UTC, datetime64[D] [n].
        user_keys, item_keys: Keys by code, Arrow arrays without nulls or duplicates.
    """

    users: Codes
    items: Codes
    weights: NDArray[np.float32]
    days: NDArray[np.datetime64]
    user_keys: pa.Array
    item_keys: pa.Array

    @classmethod
    def from_table(
        cls, table: pa.Table, *, user: str, item: str, time: str, weight: str | None = None
    ) -> "Interactions":
        """Read a table's columns; the vocabularies are its keys in ascending order, independent of the order of rows.

        Args:
            user, item: Columns of keys: texts, whole numbers, dates or UUIDs.
            time: Column of dates or timestamps; those without a time zone are UTC.
            weight: Column of numbers; None: each row counts 1.

        Raises:
            InputError: The table is empty, lacks a column, a column has another type, a value is null, or a weight is
                not a number, infinite or negative.
        """
        for column in (user, item, time, *([weight] if weight is not None else [])):
            if column not in table.column_names:
                raise InputError(
                    f"The interactions have no column {column!r}.",
                    remedy=f"They have {_join_names(table.column_names)}.",
                )
        if not table.num_rows:
            raise InputError("There are no interactions.", remedy="Give a table with at least one row.")
        user_keys, users = _encode_keys(table, user)
        item_keys, items = _encode_keys(table, item)
        return cls(users, items, _weights(table, weight), _days(table, time), user_keys, item_keys)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_users(self) -> int:
        """Users of the vocabulary, also those without an interaction."""
        return len(self.user_keys)

    @property
    def num_items(self) -> int:
        """Items of the vocabulary, also those without an interaction."""
        return len(self.item_keys)

    @property
    def last_day(self) -> date:
        """The day of the latest interaction; raises InputError without any."""
        if not len(self):
            raise InputError("There are no interactions.", remedy="Choose days that have some.")
        last: date = self.days.max().item()
        return last

    def matrix(self, weights: NDArray[np.floating[Any]] | None = None) -> "csr_matrix":
        """The sum of each pair's weights, CSR float32 [users, items] with sorted indices.

        Args:
            weights: Used instead of the interactions' own, float [n].
        """
        from scipy.sparse import csr_matrix

        # Summed in float64: many small weights do not lose to a large one.
        values = (self.weights if weights is None else weights).astype(np.float64)
        found = csr_matrix((values, (self.users, self.items)), shape=(self.num_users, self.num_items))
        found.sum_duplicates()
        return found.astype(np.float32)

    def select_before(self, day: date) -> "Interactions":
        """Interactions before a day, with the same vocabularies."""
        return self.select(self.days < np.datetime64(day, "D"))

    def select_between(self, first: date, last: date) -> "Interactions":
        """Interactions from `first` to `last`, both included, with the same vocabularies."""
        return self.select((self.days >= np.datetime64(first, "D")) & (self.days <= np.datetime64(last, "D")))

    def select(self, chosen: NDArray[Any]) -> "Interactions":
        """Select interactions by bool [n] or positions; the vocabularies stay."""
        return replace(
            self,
            users=self.users[chosen],
            items=self.items[chosen],
            weights=self.weights[chosen],
            days=self.days[chosen],
        )

    def recode(self, *, item_keys: pa.Array, user_keys: pa.Array | None = None) -> "Interactions":
        """Translate the codes into a model's; interactions with items that it does not know are dropped.

        Args:
            item_keys: The model's items by code.
            user_keys: The model's users by code; users that it does not know get the codes behind them. None: users
                keep their codes.
        """
        items = codes_of(self.item_keys, item_keys)[self.items]
        found = self.select(items >= 0)
        found = replace(found, items=items[items >= 0], item_keys=item_keys)
        if user_keys is None:
            return found
        codes = codes_of(self.user_keys, user_keys)
        unknown = codes < 0
        codes[unknown] = len(user_keys) + np.arange(unknown.sum(), dtype=np.int32)
        theirs, ours = _cast_to_one_type(user_keys, self.user_keys.filter(pa.array(unknown)))
        return replace(found, users=codes[found.users], user_keys=pa.concat_arrays([theirs, ours]))


def _encode_keys(table: pa.Table, name: str) -> tuple[pa.Array, Codes]:
    """The distinct keys of a column, ascending, and the code of each row."""
    import pyarrow.compute as pc

    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if key_types.key_type_of_arrow(column.type) is None:
        raise InputError(f"The column {name!r} of interactions is {column.type}.", remedy=key_types.ALLOWED)
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    _refuse(name, pc.is_null(column), "is null", remedy="An interaction needs both keys: leave the row out.")
    keys = pc.unique(column)
    keys = keys.take(pc.sort_indices(keys))
    return keys, pc.index_in(column, value_set=keys).to_numpy().astype(np.int32, copy=False)


def codes_of(keys: pa.Array, vocabulary: pa.Array) -> Codes:
    """The position of each key in a vocabulary, -1 for an unknown key."""
    import pyarrow.compute as pc

    vocabulary, keys = _cast_to_one_type(vocabulary, keys)
    positions = pc.index_in(keys, value_set=vocabulary)
    return np.array(positions.fill_null(-1).to_numpy(zero_copy_only=False), np.int32)


def _cast_to_one_type(vocabulary: pa.Array, keys: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Both as one Arrow type: an int32 of a model is the same key as an int64 of a table."""
    if vocabulary.type == keys.type:
        return vocabulary, keys
    kind = key_types.key_type_of_arrow(vocabulary.type)
    if kind is None or kind != key_types.key_type_of_arrow(keys.type):
        raise InputError(
            f"Keys of type {keys.type} do not fit a model's of type {vocabulary.type}.",
            remedy="Train again, or read the column as that type.",
        )
    common = {"int": pa.int64(), "string": pa.large_string(), "uuid": pa.binary(), "date": pa.date32()}[kind]
    return vocabulary.cast(common), keys.cast(common)


def _weights(table: pa.Table, name: str | None) -> NDArray[np.float32]:
    if name is None:
        return np.ones(table.num_rows, np.float32)
    column = table.column(name)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise InputError(f"The column {name!r} of interactions is {kind}.", remedy="Weights are numbers.")
    weights = np.array(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)  # null is NaN
    remedy = "Weights are numbers of 0 or more: leave the row out, or give it one."
    _refuse(name, np.isnan(weights), "is null or not a number", remedy=remedy)
    _refuse(name, weights > np.finfo(np.float32).max, "is infinite", remedy=remedy)
    _refuse(name, weights < 0, "is negative", remedy=remedy)
    return weights.astype(np.float32)


def _days(table: pa.Table, name: str) -> NDArray[np.datetime64]:
    column = table.column(name)
    kind = column.type
    if not (pa.types.is_date(kind) or pa.types.is_timestamp(kind)):
        raise InputError(f"The column {name!r} of interactions is {kind}.", remedy="Times are dates or timestamps.")
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp(kind.unit))  # without its zone a timestamp is UTC
    days = column.to_numpy().astype("datetime64[D]")
    _refuse(name, np.isnat(days), "is null", remedy="An interaction needs a time: leave the row out.")
    return np.asarray(days)


def _refuse(name: str, bad: Any, what: str, *, remedy: str) -> None:
    rows = np.flatnonzero(np.asarray(bad))
    if len(rows):
        raise InputError(
            f"The column {name!r} of interactions {what} in {len(rows):,} of {len(bad):,} rows, first in row "
            f"{rows[0]:,}.",
            remedy=remedy,
        )


def _join_names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
