"""Point-in-time join without Spark: the features of views that do not need it, at the timestamps of an Arrow table."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, FeatureView
from forecache.lake.arrow_rows import load_table, type_names, view_rows, view_table_rows
from forecache.lake.contracts import require_key_types
from forecache.lake.query import quote_name, scratch_database
from forecache.lake.sources import Pins
from forecache.lake.stored_features import RowBatches, stored_type
from forecache.plugins.historical_features.historical import OWNER, require_fitting_columns
from forecache.plugins.historical_features.night_features import find_current_nights

_DAY_US, _DAY_S = 86_400_000_000, 86_400
_EPOCH = date(1970, 1, 1)
_ROW = "number of the row"  # no column of a view has blanks


def add_known_features(
    settings: Settings,
    views: Sequence[FeatureView],
    spine: pa.Table,
    *,
    timestamp: str,
    max_age: timedelta | None = None,
    progress: Progress = no_progress,
) -> pa.Table:
    """Add the features of views to a table whose rows keep their order; otherwise as `historical_features`."""
    require_fitting_columns(views, type_names(spine.schema), timestamp)
    added: dict[str, Any] = {}
    for view in views:
        seen = _visible_dates(spine[timestamp], view)
        nights = sorted(seen.unique().drop_null().to_pylist())
        asked = pa.table({**{name: spine[name] for name in view.key}, AS_OF: seen})
        known = _join_nights(settings, view, nights, asked, progress) if nights else None
        for feature in view.feature_columns:
            column = pa.nulls(spine.num_rows, stored_type(feature)) if known is None else known[feature.name]
            if max_age is not None and known is not None:
                column = pc.if_else(_is_fresh(spine[timestamp], seen, max_age), column, pa.scalar(None, column.type))
            added[feature.name] = column
    for name, column in added.items():
        spine = spine.append_column(name, column)
    return spine


def _join_nights(
    settings: Settings, view: FeatureView, nights: Sequence[date], asked: pa.Table, progress: Progress
) -> pa.Table:
    """The features of the rows that are asked for, in their order."""
    pins = Pins(settings)
    current = find_current_nights(settings, view, nights, pins=pins)
    parts = [view_table_rows(settings, view, current)] if current else []
    if lacking := [night for night in nights if night not in current]:
        progress(f"features of {view.name} for {lacking[0]} to {lacking[-1]}", None)
        wanted = asked.filter(pc.is_in(asked[AS_OF], pa.array(lacking, pa.date32()))).drop_null()
        parts.append(view_rows(settings, view, lacking, pins=pins, progress=progress, asked=wanted))
    require_key_types(OWNER, type_names(asked.schema), type_names(parts[0].schema), view)
    numbered = asked.append_column(_ROW, pa.array(np.arange(asked.num_rows)))
    entity = [quote_name(name) for name in (*view.key, AS_OF)]
    names = ", ".join(quote_name(name) for name in view.feature_names)
    with scratch_database(settings) as connection:
        load_table(connection, "asked", RowBatches(numbered.schema, numbered.to_batches()))
        for number, part in enumerate(parts):
            load_table(connection, f"part{number}", part)
        union = " UNION ALL BY NAME ".join(f"FROM part{number}" for number in range(len(parts)))
        keys = ", ".join(entity)
        _refuse_duplicates(
            view, connection.sql(f"SELECT {keys} FROM ({union}) GROUP BY ALL HAVING count(*) > 1 LIMIT 1")
        )
        joined = f"FROM asked LEFT JOIN ({union}) USING ({keys}) ORDER BY {quote_name(_ROW)}"
        return connection.sql(f"SELECT {names} {joined}").to_arrow_table()


def _refuse_duplicates(view: FeatureView, found: Any) -> None:
    for *key, night in found.fetchall():
        raise InputError(
            f"The view {view.name!r} has several rows of the key {', '.join(map(str, key))} on {night}.",
            remedy="Return one row for each key and date.",
        )


def _visible_dates(times: pa.ChunkedArray, view: FeatureView) -> pa.Array:
    """The newest as-of date of a view that is visible at each time; null before the first, and without a time."""
    micros, known = _microseconds(times)
    days = micros // _DAY_US - 1
    if view.end is not None:
        days = np.minimum(days, (view.end - _EPOCH).days)
    known &= days >= (view.start - _EPOCH).days
    return pa.array(np.where(known, days, 0).astype(np.int32), mask=~known).cast(pa.date32())


def _is_fresh(times: pa.ChunkedArray, seen: pa.Array, max_age: timedelta) -> pa.Array:
    """True for times at most so long after the end of their as-of date."""
    micros, _ = _microseconds(times)
    ended = (seen.cast(pa.int32()).fill_null(0).to_numpy().astype(np.int64) + 1) * _DAY_S
    return pa.array(micros / 1e6 - ended <= max_age.total_seconds())


def _microseconds(times: pa.ChunkedArray) -> tuple[Any, Any]:
    """Times since 1970 in UTC, int64 [n], 0 if null, and the mask of those that are not null."""
    column = times.combine_chunks()
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    micros = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    return micros.fill_null(0).to_numpy(zero_copy_only=False), np.asarray(column.is_valid())
