"""Availability of items, for all users or by region, as of a date, by a recommender's catalogue."""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.settings import Settings
from forecache.declare import Recommender
from forecache.lake.sources import Pins, state_rows
from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.interactions import codes_of


@dataclass(frozen=True)
class Availability:
    """Rows of a catalogue on a date: items, or items in a region.

    Attributes:
        items: Key of each row's item.
        there: True if it is available, bool [rows].
        regions: Region of each row; None: a row is about all regions.
        users, region_of_user: Users and the region of each, which may be null.
    """

    items: pa.Array
    there: np.ndarray
    regions: pa.Array | None = None
    users: pa.Array | None = None
    region_of_user: pa.Array | None = None

    def filters(self, item_keys: pa.Array, user_keys: pa.Array) -> Filters:
        """The filters of lists, by the codes of items and users.

        A user without a region of the catalogue may have the items that are available in all regions.
        """
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
            available=anywhere,
            region_of_user=np.where(of_user >= 0, of_user, len(known)),
            available_in=available_in,
        )


def available_items(settings: Settings, recommender: Recommender, night: date, *, pins: Pins) -> Availability | None:
    """Read the availability of items; None without a catalogue or rows of it: all items are available.

    Raises:
        InputError: An existing table cannot be read as declared.
    """
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
