"""Landing files made from a project's own rows, for `forecache demo`."""

import csv
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.base.errors import SettingsError
from forecache.base.folders import open_bucket
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import Source
from forecache.declare.loading import import_from_project
from forecache.lake.ingest.landing import list_landing, source_uri

if TYPE_CHECKING:
    import pyarrow as pa

LandingDay = tuple[Source, date, "Sequence[Sequence[object]] | pa.Table"]
"""The rows of a day of a source: sequences of values in the order of the source's columns, or an Arrow table."""


def land_demo_data(
    settings: Settings, days: Iterable[LandingDay] | None = None, *, progress: Progress = no_progress
) -> list[StageResult]:
    """Write a landing file for each day, Parquet for Arrow tables and CSV for other rows; existing files stay.

    Args:
        days: None: those that the project's `landing.landing_days()` yields; SettingsError if it has none.

    Returns:
        One stage "land" for each source, with all its rows.
    """
    started = time.perf_counter()
    landed: dict[str, set[str]] = {}
    writers: dict[str, Callable[[str, bytes], object]] = {}
    rows, written = Counter[str](), Counter[str]()
    for source, day, values in _landing_days(settings) if days is None else days:
        if source.name not in landed:
            landed[source.name] = {file.name for file in list_landing(settings, source)}  # makes a local folder
            writers[source.name] = _file_writer(settings, source)
        rows[source.name] += len(values)
        is_listed = isinstance(values, Sequence)
        name = f"{day}.csv" if is_listed else f"{day}.parquet"
        if name not in landed[source.name]:
            writers[source.name](name, _to_csv(source, values) if is_listed else _to_parquet(values))
            written[source.name] += 1
    progress(f"{written.total()} landing files written", 1.0)
    seconds = time.perf_counter() - started
    return [
        StageResult("land", name, count, seconds, skipped=not written[name], details={"files": written[name]})
        for name, count in rows.items()
    ]


def _landing_days(settings: Settings) -> Iterable[LandingDay]:
    name = f"{settings.project}.landing"
    try:
        days: Iterable[LandingDay] = import_from_project(settings, name).landing_days()
    except (SettingsError, AttributeError) as error:
        raise SettingsError(
            f"The demo needs a function landing_days() in {name}: {error}",
            remedy="It yields (source, day, rows) for each day; see dagster_project/landing.py.",
        ) from error
    return days


def _to_csv(source: Source, rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(column.name for column in source.columns)
    lines.writerows(rows)
    return text.getvalue().encode()


def _to_parquet(table: "pa.Table") -> bytes:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()


def _file_writer(settings: Settings, source: Source) -> Callable[[str, bytes], object]:
    """Return a function that writes a landing file atomically."""
    uri = source_uri(settings, source)
    if "://" in uri:
        import obstore

        return partial(obstore.put, open_bucket(uri, settings.storage_options))

    def write(name: str, content: bytes) -> None:
        unfinished = Path(uri) / f".{os.getpid()}-{name}"  # two demos may land at once
        unfinished.write_bytes(content)
        unfinished.rename(Path(uri) / name)

    return write
