"""The rows of a source that are valid on a day, read without Spark, for recommenders and mailings."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.declare import AnySource, TableSource
from forecache.kit.delta.dataset import open_dataset, open_native
from forecache.kit.delta.tables import open_table
from forecache.lake.ingest.ingested_files import ingested_files, state_file
from forecache.lake.sources.tables.delta_source import open_delta, require_version
from forecache.lake.sources.tables.pinned_table import PinnedTable, source_error
from forecache.lake.sources.tables.pins import Pins
from forecache.lake.sources.tables.table_rows import duplicate_key_error


def state_rows(settings: Settings, source: AnySource, day: date, columns: Sequence[str], *, pins: Pins) -> Any:
    """Columns of the state of a source on a day, or of its rows without time; None if there is none.

    InputError if the state of an existing table has a key twice, or a null in one; or if its version was removed.
    """
    if isinstance(source, TableSource):
        return existing_table_rows(pins.pin(source), day, columns)
    state = state_file(source, ingested_files(settings, source), day)
    if state is None:
        return None
    chosen = (ds.field("event_day") == state.event_day) & (ds.field("source_file") == state.file)
    return open_dataset(open_table(settings, source.raw_table)).to_table(list(columns), chosen)


def existing_table_rows(pinned: PinnedTable, day: date, columns: Sequence[str]) -> pa.Table | None:
    """Columns of the rows of an existing table that are valid on a day: of events all, else the state."""
    source = pinned.source
    if source.time is not None and not pinned.has_state(day):
        return None
    version = pinned.version_of(day) if pinned.is_by_version else pinned.version
    day_column = [source.day_column] if source.day_column else []
    rows = _read(pinned, version, list(dict.fromkeys([*columns, *source.key, *day_column])))
    what = "its files" if version is None else f"version {version}"
    if source.time is not None and day_column:
        days = rows[source.day_column]
        last = pc.max(days.filter(pc.less_equal(days, pa.scalar(day)))).as_py()
        if last is None:
            return None
        rows, what = rows.filter(pc.equal(days, pa.scalar(last))), f"{what}, the state of {last},"
    if source.time is not None and source.key:
        _require_keys(pinned, rows, what)
    return rows.select(list(columns))


def _read(pinned: PinnedTable, version: int | None, columns: list[str]) -> pa.Table:
    uri = pinned.place.uri
    try:
        return _dataset(pinned, version).to_table(columns)
    except FileNotFoundError as error:
        raise source_error(
            pinned.source, f"a file of {uri} was removed since the run began: {error}", "Run again."
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"Source {pinned.source.name!r} cannot be read: {uri} does not answer: {str(error).splitlines()[0]}.",
            remedy="Run again when it does.",
        ) from error


def _dataset(pinned: PinnedTable, version: int | None) -> Any:
    source, place = pinned.source, pinned.place
    if version is None:
        schema = pa.schema([(column.name, _ARROW[column.type]) for column in source.columns])
        paths = [file.path for file in pinned.files]
        parts = ds.partitioning(schema, flavor="hive")
        filesystem = open_native(place.uri, place.options) or place.open()
        return ds.dataset(paths, schema, format="parquet", filesystem=filesystem, partitioning=parts)
    from deltalake.exceptions import DeltaError

    require_version(pinned, version)
    table = open_delta(source, place, version)
    try:
        return open_dataset(table)
    except DeltaError as error:
        what = f"version {version} of {place.uri} can be read by Spark only: {str(error).splitlines()[0]}"
        raise source_error(source, what, "Rewrite it without deletion vectors and column mapping.") from error


def _require_keys(pinned: PinnedTable, rows: pa.Table, what: str) -> None:
    counts = rows.group_by(list(pinned.source.key)).aggregate([([], "count_all")])
    bad: Any = pc.greater(counts["count_all"], 1)
    for name in pinned.source.key:
        bad = pc.or_(bad, pc.is_null(counts[name]))
    for row in counts.filter(bad).slice(0, 1).to_pylist():
        raise duplicate_key_error(pinned, row, row["count_all"], what)


_ARROW: dict[str, pa.DataType] = {
    "string": pa.string(), "int": pa.int32(), "bigint": pa.int64(), "double": pa.float64(), "date": pa.date32(),
    "timestamp": pa.timestamp("us"), "boolean": pa.bool_(),
}  # fmt: skip
