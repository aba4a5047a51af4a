"""Filters of lists: items out of stock, not available in the user's region, taken lately, or too many of one group."""

from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.lake.sources import Pins, state_rows
from forecache.plugins.recommend.interactions import codes_of
from forecache.plugins.recommend.recommender import Recommender

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


_OVERSIZE = 4


@dataclass(frozen=True)
class Filters:
    """Restrictions of lists; without any, every item may be on every list."""

    # Items that a user has and is not to get again, CSR [users, items]; entries count, not their values.
    seen: "csr_matrix | None" = None
    available: np.ndarray | None = None  # true if an item may be on lists at all (it is in stock), bool [items]
    region_of_user: np.ndarray | None = None  # region of each user, int [users]; needs `available_in`
    available_in: np.ndarray | None = None  # true if an item may be on lists in a region, bool [regions, items]
    # Group of each item, such as its category, int [items]; needs `most_of_group`.
    group_of_item: np.ndarray | None = None
    most_of_group: int | None = None  # most items of one group on a list

    def __post_init__(self) -> None:
        for one, other in (("region_of_user", "available_in"), ("group_of_item", "most_of_group")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise InputError(f"Filters have {one} or {other} without the other.", remedy="Give both or neither.")
        if self.most_of_group is not None and self.most_of_group < 1:
            raise InputError(
                f"At most {self.most_of_group} items of a group may be on a list.", remedy="Allow at least 1."
            )

    @property
    def limits_groups(self) -> bool:
        return self.most_of_group is not None

    def depth(self, k: int) -> int:
        """Number of best items from which a list of k is taken."""
        return k * _OVERSIZE if self.limits_groups else k

    def reachable(self, num_items: int) -> np.ndarray:
        """True for items that may be on some user's list, bool [items]."""
        found = np.ones(num_items, bool) if self.available is None else self.available.copy()
        return found if self.available_in is None else found & self.available_in.any(axis=0)

    def select_users(self, users: np.ndarray) -> "Filters":
        """The filters of some users, who are numbered from 0 in the order given."""
        return replace(
            self,
            seen=None if self.seen is None else self.seen[users],
            region_of_user=None if self.region_of_user is None else self.region_of_user[users],
        )

    def renumber_items(self, codes: np.ndarray, num_items: int) -> "Filters":
        """The filters of the items `codes`, numbered from 0 in that order; `spread` still takes the original codes."""
        seen = None
        if self.seen is not None:
            position = np.full(num_items, len(codes), np.int32)
            position[codes] = np.arange(len(codes), dtype=np.int32)
            seen = self.seen.copy()
            seen.indices = position[seen.indices]
            seen = _CsrColumns(seen.indptr, seen.indices)
        return replace(
            self,
            seen=seen,
            available=None if self.available is None else self.available[codes],
            available_in=None if self.available_in is None else self.available_in[:, codes],
        )

    def allows(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """True for items [n] that are available to users [n], bool [n]; what a user has taken is not excluded."""
        found = np.ones(len(items), bool) if self.available is None else self.available[items]
        if self.available_in is not None and self.region_of_user is not None:
            found = found & self.available_in[self.region_of_user[users], items]
        return found

    def apply(self, scores: np.ndarray, users: np.ndarray) -> None:
        """Set scores [n, m] of those of the first m items that may not be on the lists of users [n] to -inf."""
        width = scores.shape[1]
        if self.available is not None:
            scores[:, ~self.available[:width]] = -np.inf
        if self.available_in is not None and self.region_of_user is not None:
            for region in np.unique(self.region_of_user[users]):
                there = np.flatnonzero(self.region_of_user[users] == region)
                scores[np.ix_(there, np.flatnonzero(~self.available_in[region, :width]))] = -np.inf
        if self.seen is not None:
            counts = self.seen.indptr[users + 1] - self.seen.indptr[users]
            rows = np.repeat(np.arange(len(users)), counts)
            offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            columns = self.seen.indices[self.seen.indptr[users][rows] + offsets]
            within = columns < width
            scores[rows[within], columns[within]] = -np.inf

    def spread(self, items: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first k items of each row of lists [n, depth] with at most `most_of_group` of a group; -1 behind the end.

        Returns items and scores [n, k], and for each list whether it equals the one from all items, bool [n].
        """
        assert self.group_of_item is not None
        assert self.most_of_group is not None
        rows, depth = items.shape
        # Empty places are of groups of their own.
        group = np.where(items >= 0, self.group_of_item[items], -1 - np.arange(depth))
        order = np.argsort(group, axis=1, kind="stable")
        sorted_ = np.take_along_axis(group, order, axis=1)
        place = np.arange(depth)
        is_first = np.ones((rows, depth), bool)
        is_first[:, 1:] = sorted_[:, 1:] != sorted_[:, :-1]
        earlier = np.empty((rows, depth), np.int64)
        np.put_along_axis(earlier, order, place - np.maximum.accumulate(np.where(is_first, place, 0), axis=1), axis=1)
        kept = (earlier < self.most_of_group) & (items >= 0)
        chosen = np.argsort(~kept, axis=1, kind="stable")[:, :k]
        is_kept = np.take_along_axis(kept, chosen, axis=1)
        best = np.where(is_kept, np.take_along_axis(items, chosen, axis=1), -1).astype(np.int32)
        worth = np.where(is_kept, np.take_along_axis(scores, chosen, axis=1), -np.inf).astype(np.float32)
        width = best.shape[1]
        if width < k:
            best = np.pad(best, ((0, 0), (0, k - width)), constant_values=-1)
            worth = np.pad(worth, ((0, 0), (0, k - width)), constant_values=-np.inf)
        complete = (kept.sum(axis=1) >= k) | (items[:, -1] < 0)
        return best, worth, complete


@dataclass(frozen=True)
class _CsrColumns:
    """Columns by row, as in a CSR matrix."""

    indptr: np.ndarray
    indices: np.ndarray


@dataclass(frozen=True)
class Availability:
    """Rows of a catalogue on a date: items, or items in a region."""

    items: pa.Array  # key of each row's item
    there: np.ndarray  # true if it is available, bool [rows]
    regions: pa.Array | None = None  # region of each row; None: a row is about all regions
    users: pa.Array | None = None  # users and the region of each, which may be null
    region_of_user: pa.Array | None = None

    def filters(self, item_keys: pa.Array, user_keys: pa.Array) -> Filters:
        """The filters by code; a user without a region of the catalogue may have what is available in all regions."""
        anywhere = codes_of(item_keys, self.items.filter(pa.array(self.there))) >= 0
        if self.regions is None:
            return Filters(available=anywhere)
        assert self.users is not None
        assert self.region_of_user is not None
        known = pc.unique(self.regions).drop_null()
        item, region = codes_of(self.items, item_keys), codes_of(self.regions, known)
        chosen = self.there & (item >= 0) & (region >= 0)
        available_in = np.zeros((len(known) + 1, len(item_keys)), bool)
        available_in[region[chosen], item[chosen]] = True
        available_in[-1] = available_in[:-1].all(axis=0)
        places = codes_of(user_keys, self.users)
        theirs = codes_of(self.region_of_user, known)
        of_user = np.where(places >= 0, theirs[places] if len(theirs) else -1, -1)
        return Filters(
            available=anywhere, region_of_user=np.where(of_user >= 0, of_user, len(known)), available_in=available_in
        )


def available_items(settings: Settings, recommender: Recommender, night: date, *, pins: Pins) -> Availability | None:
    """Read the availability of items; None without a catalogue or rows of it: all items are available."""
    catalogue = recommender.catalogue
    if catalogue is None:
        return None
    wanted = [name for name in (catalogue.item, catalogue.available, catalogue.region) if name is not None]
    rows = state_rows(settings, catalogue.source, night, wanted, pins=pins)
    if rows is None:
        return None
    there = np.ones(len(rows), bool)
    if catalogue.available is not None:
        there = np.array(rows[catalogue.available].combine_chunks().fill_null(False).to_numpy(zero_copy_only=False))
    items = _array(rows, catalogue.item)
    if catalogue.region is None or catalogue.users is None:
        return Availability(items, there)
    user = catalogue.users.key[0]
    users = state_rows(settings, catalogue.users, night, [user, catalogue.region], pins=pins)
    regions = _array(rows, catalogue.region)
    if users is None:
        none = pa.array([], regions.type)
        return Availability(items, there, regions, none, none)
    return Availability(items, there, regions, _array(users, user), _array(users, catalogue.region))


def _array(rows: pa.Table, name: str) -> pa.Array:
    column = rows[name].combine_chunks()
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
