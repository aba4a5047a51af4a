"""Current features of a view on given nights: from the view's table if it is up to date, else computed."""

from collections.abc import Sequence
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING

from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, FeatureView
from forecache.kit.delta.errors import REFUSED
from forecache.lake.feature_rows import read_view, view_frame, view_inputs
from forecache.lake.features import STAGE, require_nights
from forecache.lake.ledger import last_records
from forecache.lake.sources import Pins

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

_DATES_AT_ONCE = 31
# Limit of (key, night) rows in the driver's memory, about 50 bytes each; beyond it all keys of the nights are computed.
_MOST_ASKED = 4_000_000
_ROWS = "forecache_rows"


def load_night_features(
    spark: "SparkSession",
    settings: Settings,
    view: FeatureView,
    nights: Sequence[date],
    *,
    asked: "DataFrame | None" = None,
    states: bool = False,
    pins: Pins | None = None,
    progress: Progress = no_progress,
) -> "DataFrame":
    """Key columns, `as_of` and features of nights, from the view's table if they are current, else computed.

    The job that reads them fails if a function returned several rows of a key; see `as_refusal`.

    Args:
        asked: Key columns and `as_of` of the rows that are needed, which may repeat; windows are computed for these
            only, unless there are too many. None: all.
        states: Include the states of a live view.
    """
    current = find_current_nights(settings, view, nights, pins=pins)
    lacking = [night for night in nights if night not in current]
    frames = [read_view(spark, settings, view, current, states=states)] if current else []
    rows = _requested_rows(asked, lacking) if asked is not None and lacking and view.windows else None
    # Every call reads the tiles of all days in the windows, so few calls are better.
    at_once = _DATES_AT_ONCE if rows is None else max(1, len(lacking))
    for first in range(0, len(lacking), at_once):
        some = lacking[first : first + at_once]
        progress(f"features of {view.name} for {some[0]} to {some[-1]}", first / len(lacking))
        frames.append(view_frame(spark, settings, view, some, pins=pins, progress=progress, asked=rows, states=states))
    return _fail_on_duplicates(view, reduce(lambda one, other: one.unionByName(other), frames))


def find_current_nights(
    settings: Settings, view: FeatureView, nights: Sequence[date], *, pins: Pins | None = None
) -> dict[date, int]:
    """The Delta version that wrote each night whose features are current; raises as `require_nights`."""
    require_nights(settings, view, nights, pins=pins)
    records, inputs = last_records(settings, STAGE, view.name), view_inputs(settings, view, nights, pins=pins)
    return {n: records[n].delta_version for n in nights if n in records and records[n].inputs == inputs[n]}


def _requested_rows(asked: "DataFrame", nights: Sequence[date]) -> "pa.Table | None":
    """Distinct key columns and `as_of` of the requested rows of some nights; None if there are too many."""
    from pyspark.sql import functions as F

    wanted = asked.where(F.col(AS_OF).isin(list(nights))).dropna().distinct().limit(_MOST_ASKED + 1)
    rows = wanted.toArrow()
    return rows if rows.num_rows <= _MOST_ASKED else None


def _fail_on_duplicates(view: FeatureView, features: "DataFrame") -> "DataFrame":
    """The rows of a view; the job fails if a function returned several of one key, which would multiply the result."""
    from pyspark.sql import functions as F

    if view.windows:
        return features
    said = F.concat_ws(
        " ",
        F.lit(f"{REFUSED} The view {view.name!r} has several rows of the key"),
        F.concat_ws(", ", *(F.col(name).cast("string") for name in view.key)),
        F.lit("on"),
        F.concat(F.col(AS_OF).cast("string"), F.lit(".")),
    )
    rows = features.groupBy(*view.key, AS_OF).agg(
        F.count(F.lit(1)).alias(_ROWS), *(F.first(name).alias(name) for name in view.feature_names)
    )
    names = [*view.key, *view.feature_names]
    return rows.select(*names, F.when(F.col(_ROWS) > 1, F.raise_error(said)).otherwise(F.col(AS_OF)).alias(AS_OF))
