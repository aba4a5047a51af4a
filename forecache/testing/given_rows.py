"""Rows that a test gives for the sources of a declaration, ingested in a home of its own as landing files would be."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecache.base.errors import InputError
from forecache.base.settings import Settings, load_settings
from forecache.base.table_names import AS_OF, SOURCE_COLUMNS, known_names_remedy
from forecache.declare import AnySource, FeatureView, Pipeline, Snapshot, Source, Static, TableSource
from forecache.declare.as_of import require_as_of, require_within
from forecache.declare.sources.source import Missing
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.kit.delta.writers import cast_to_delta_types
from forecache.lake.frame import read_frame
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.typed_rows import TYPES

_Declared = TypeVar("_Declared", Pipeline, FeatureView)
_EVENT_DAY = SOURCE_COLUMNS[0]


@contextmanager
def temporary_home() -> Iterator[Settings]:
    """Settings of an installation in a folder that is removed, with no lake, store or registry of the environment."""
    own: dict[str, Any] = dict.fromkeys(
        ("landing", "lake", "store", "store_remote", "redis_url", "mlflow_uri", "mlflow_artifacts"), ""
    )
    with tempfile.TemporaryDirectory(prefix="forecache-testing-") as folder:
        yield load_settings("", home=folder, storage_options={}, training_checkpoints="", code_version="testing", **own)


def land_rows(settings: Settings, declared: _Declared, rows: Mapping[str, Any], day: date) -> _Declared:
    """Ingest rows by the name of their source, and return the declaration with sources that have these rows.

    Events are of the days of their event time, and the day `day` is delivered, if with no event. Of a snapshot the rows
    are its state on `day`, or states by the column `event_day`. A source that is left out has no rows. Columns that are
    left out are null.

    Raises:
        InputError: `day` is no as-of date, there is no such source or column, a value is of another type, or rows would
            be quarantined.
    """
    if isinstance(declared, Pipeline):
        require_as_of(declared, [day])
    else:
        require_within(declared, [day])
    by_name = {source.name: source for source in declared.all_sources}
    for name in rows:
        if name not in by_name:
            raise InputError(
                f"{declared.name!r} has no source {name!r}.",
                remedy=known_names_remedy(name, by_name, where=repr(declared.name)),
            )
    given = {name: _land_source(settings, source, rows.get(name, ()), day) for name, source in by_name.items()}
    return _replace_sources(declared, given)


def _replace_sources(declared: _Declared, given: Mapping[str, AnySource]) -> _Declared:
    def take(sources: Sequence[AnySource]) -> tuple[AnySource, ...]:
        return tuple(given[source.name] for source in sources)

    if isinstance(declared, FeatureView):
        return replace(declared, sources=take(declared.sources))
    features, entities = declared.features, declared.entities
    if isinstance(features, FeatureView):
        features = _replace_sources(features, given)
    elif isinstance(features, tuple):
        features = tuple(_replace_sources(view, given) for view in features)
    entities = None if entities is None else replace(entities, sources=take(entities.sources))
    return replace(declared, features=features, entities=entities, sources=take(declared.sources))


def _land_source(settings: Settings, source: AnySource, rows: Any, day: date) -> AnySource:
    read = read_frame(rows, what=f"The frame of source {source.name!r}")
    typed = _typed_rows(source, read)
    if isinstance(source, TableSource):
        return _write_table(settings, source, typed)
    own = replace(
        source,
        file_pattern=Source.file_pattern,
        extract=None,
        missing="last" if isinstance(source.time, Snapshot) else "fail",
    )
    days = _days_of(source, read, typed, day)
    folder = Path(settings.landing_uri) / source.name
    folder.mkdir(parents=True)
    of_day = {each: typed.filter(pc.equal(days, pa.scalar(each))) for each in pc.unique(days).to_pylist()}
    has_state = isinstance(source.time, Snapshot) and any(each < day for each in of_day)
    if day not in of_day and not has_state:
        of_day[day] = typed.slice(0, 0)
    for each, some in of_day.items():
        pq.write_table(some, folder / f"{each}.parquet")
    result = ingest(settings, own)
    for error in result.details["quarantined_files"].values():
        raise InputError(f"Rows of source {source.name!r} would be quarantined: {error}.", remedy=_days_text(source))
    if result.details["quarantined_rows"]:
        bad = open_dataset(open_table(settings, source.quarantine_table)).head(1).to_pylist()[0]
        count = f"{result.details['quarantined_rows']} of {len(typed)} rows"
        raise InputError(
            f"{count} of source {source.name!r} would be quarantined; the first, {bad['content']}: {bad['reason']}.",
            remedy="Give rows as the source declares them.",
        )
    return own


def _days_text(source: Source) -> str:
    return f"Its days go from {source.start} to {source.end or 'today'}."


def _typed_rows(source: AnySource, rows: pa.Table) -> pa.Table:
    """The declared columns in their types."""
    declared = {column.name: TYPES[column.type] for column in source.columns}
    for name in rows.column_names:
        if name not in declared and name not in (*SOURCE_COLUMNS, AS_OF):
            raise InputError(
                f"The source {source.name!r} has no column {name!r}.",
                remedy=known_names_remedy(name, declared, where="it"),
            )
    columns = []
    for name, kind in declared.items():
        if name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, kind))
            continue
        try:
            columns.append(rows.column(name).cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"The column {name!r} of source {source.name!r} is given as {rows.column(name).type}, and declared as "
                f"{kind}: {error}.",
                remedy="Give its values in the declared type.",
            ) from None
    return pa.table(columns, schema=pa.schema(list(declared.items())))


def _days_of(source: Source, read: pa.Table, typed: pa.Table, day: date) -> pa.ChunkedArray:
    """The day of each row."""
    if source.event_time:
        days = typed.column(source.event_time).cast(pa.date32(), safe=False)
        return pc.fill_null(days, pa.scalar(day))  # of a row without a time, which is quarantined
    if isinstance(source.time, Snapshot) and _EVENT_DAY in read.column_names:
        return read.column(_EVENT_DAY).cast(pa.date32())
    return pa.chunked_array([pa.array([day] * len(typed), pa.date32())])


def _write_table(settings: Settings, source: TableSource, rows: pa.Table) -> TableSource:
    """Write an existing table; a snapshot whose states are versions has one state, which holds on each date."""
    from deltalake import write_deltalake

    place = settings.home_path / "existing" / source.name
    write_deltalake(str(place), cast_to_delta_types(rows))
    is_by_version = isinstance(source.time, Snapshot) and source.time.day is None
    time = Static() if is_by_version else source.time
    missing: Missing = "fail" if isinstance(time, Static) else "last"
    return replace(source, uri=str(place), format="delta", time=time, missing=missing)
