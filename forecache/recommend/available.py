"""Which items may be on a list as of a date, by a recommender's catalogue."""

from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forecache.lake.delta.tables import open_table
from forecache.lake.ingest.ingested import file_of_state, ingested_files
from forecache.pipeline import Recommender
from forecache.recommend.interactions import codes_of
from forecache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


def available_items(settings: Settings, recommender: Recommender, night: date) -> "pa.Array | None":
    """Keys of the items that may be on a list; None where nothing says so: all may."""
    import pyarrow.dataset as ds

    catalogue = recommender.catalogue
    if catalogue is None:
        return None
    state = file_of_state(catalogue.source, ingested_files(settings, catalogue.source), night)
    if state is None:
        return None
    chosen = (ds.field("event_day") == state.event_day) & (ds.field("source_file") == state.file)
    if catalogue.available is not None:
        chosen &= ds.field(catalogue.available)
    table = open_table(settings, catalogue.source.raw_table).to_pyarrow_dataset()
    return table.to_table([catalogue.item], chosen)[catalogue.item].combine_chunks()


def available_mask(item_keys: "pa.Array", available: "pa.Array | None") -> NDArray[np.bool_] | None:
    """Whether each item may be on a list, bool [items]; None: all may."""
    return None if available is None else codes_of(item_keys, available) >= 0
