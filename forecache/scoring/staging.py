"""Scored shards before they are visible: Parquet files below the prediction table that its log does not name yet.

A shard is one feature file of the night, or the whole night where it is small. Its predictions are in the order of the
file's rows, in one or several parts; each part is a file that appears whole or not at all, and is its own entry in the
ledger: its folder names what it was scored from (model, features, declaration, code) and its footer how many rows it
has. A killed run, run again, finds them and scores the rest, from the middle of a feature file if need be. What is
never committed is outside the log, so that VACUUM removes it.
"""

import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timezone
from itertools import count, takewhile
from typing import Any
from urllib.parse import unquote

from forecache.pipeline import AS_OF
from forecache.scoring.files import Place
from forecache.scoring.night import FeatureFile, Night
from forecache.settings import Settings

WHOLE = "all"
_PART = re.compile(r"\.c(\d+)\.[^/]*$")


@dataclass(frozen=True)
class StagedFile:
    """A scored Parquet file; `statistics` has numRecords, minValues, maxValues and nullCount as Delta names them."""

    path: str
    night: date
    shard: str
    size_bytes: int
    rows: int
    statistics: Mapping[str, Any]


def place_of(settings: Settings, table: str) -> Place:
    """Where a table lies, as any process of this machine or of a cluster with its disk finds it."""
    uri = settings.table_uri(table)
    return Place(uri if "://" in uri else os.path.abspath(uri), settings.storage_options)


def lake_filesystem(settings: Settings, table: str) -> Any:
    """A pyarrow file system rooted at a table, local or in an object store."""
    return place_of(settings, table).open()


def staging_folder(night: Night, *, shared: bool = False) -> str:
    """A folder of this attempt's own, relative to the table: two runs of one night never write into each other's.

    Args:
        shared: Several small nights, of which this is the first, go into the folder, each below `as_of=<night>`.
    """
    attempt = f"{night.tag}-{uuid.uuid4().hex[:8]}"
    return f"scored-{attempt}" if shared else f"{AS_OF}={night.night.isoformat()}/{attempt}"


def list_folder(settings: Settings, table: str, folder: str, night: date) -> list[StagedFile]:
    """The files in a folder that holds one night."""
    shards = _by_shard(lake_filesystem(settings, table), folder, night)
    return [file for files in shards.values() for file in files]


def list_staged(settings: Settings, table: str, night: Night) -> dict[str, list[StagedFile]]:
    """By feature file, the files with its scored rows from the first on without a gap, whichever attempts have them."""
    from pyarrow import fs

    filesystem = lake_filesystem(settings, table)
    base = f"{AS_OF}={night.night.isoformat()}"
    segments: dict[tuple[str, int], list[list[StagedFile]]] = {}
    for folder in filesystem.get_file_info(fs.FileSelector(base, allow_not_found=True)):
        if folder.type != fs.FileType.Directory or not folder.base_name.startswith(f"{night.tag}-"):
            continue
        for shard, files in _by_shard(filesystem, folder.path, night.night).items():
            if shard != WHOLE:
                segments.setdefault(_rows_of_shard(shard), []).append(_unbroken(files))
            elif _rows(files) == night.rows:
                return {WHOLE: files}
    covered = {file.name: _covered(file, segments) for file in night.files}
    return {name: files for name, files in covered.items() if files}


def missing_files(night: Night, staged: Mapping[str, Sequence[StagedFile]]) -> list[FeatureFile]:
    """The feature files, or what is left of them, that have not been scored."""
    if WHOLE in staged:
        return []
    done = {file.name: _rows(staged.get(file.name, ())) for file in night.files}
    return [
        replace(file, first=done[file.name], rows=file.rows - done[file.name])
        for file in night.files
        if done[file.name] < file.rows
    ]


def _rows(files: Sequence[StagedFile]) -> int:
    return sum(file.rows for file in files)


def _rows_of_shard(shard: str) -> tuple[str, int]:
    """The feature file of a shard, and its first row."""
    name, _, first = shard.rpartition("@")
    return (name, int(first)) if name and first.isdigit() else (shard, 0)


def _unbroken(files: Sequence[StagedFile]) -> list[StagedFile]:
    """The first parts of a shard without a gap."""
    by_part = {int(part[1]): file for file in files if (part := _PART.search(file.path)) is not None}
    return [by_part[i] for i in takewhile(by_part.__contains__, count())]


def _covered(file: FeatureFile, segments: Mapping[tuple[str, int], Sequence[list[StagedFile]]]) -> list[StagedFile]:
    found: list[StagedFile] = []
    while (done := _rows(found)) < file.rows:
        fitting = [some for some in segments.get((file.name, done), ()) if 0 < _rows(some) <= file.rows - done]
        if not fitting:
            break
        longest: list[StagedFile] = max(fitting, key=_rows)
        found += longest
    return found


def _by_shard(filesystem: Any, folder: str, night: date) -> dict[str, list[StagedFile]]:
    """The complete files in a folder, by shard."""
    from pyarrow import fs

    found: dict[str, list[StagedFile]] = {}
    for info in filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True)):
        path: str = info.path
        # Shadow scoring's frames are written by Spark's own tasks, each into such a folder until it is done.
        if info.type != fs.FileType.File or not path.endswith(".parquet") or "/_temporary/" in path:
            continue
        parts = dict(part.split("=", 1) for part in path.split("/") if "=" in part)
        shard = unquote(parts.get("shard", WHOLE))
        file = describe_file(filesystem, path, night, shard, info.size)
        # A task of Spark's without rows leaves an empty file; one that a crash cut short counts for nothing either.
        if file is not None and file.rows:
            found.setdefault(shard, []).append(file)
    return found


def describe_committed(settings: Settings, table: str, file: FeatureFile, night: date) -> StagedFile:
    """A file of a night's partition, with its statistics."""
    found = describe_file(lake_filesystem(settings, table), file.path, night, WHOLE, file.size_bytes)
    assert found is not None
    return found


def describe_file(filesystem: Any, path: str, night: date, shard: str, size_bytes: int) -> StagedFile | None:
    """A staged file with its statistics, from its Parquet footer; None where it has no readable one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with filesystem.open_input_file(path) as source:
        try:
            metadata = pq.read_metadata(source)
        except pa.ArrowInvalid:
            return None
    return StagedFile(path, night, shard, size_bytes, metadata.num_rows, _statistics(metadata))


def _statistics(metadata: Any) -> dict[str, Any]:
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for index in range(metadata.num_columns):
        name = metadata.schema.column(index).path
        chunks = [metadata.row_group(group).column(index).statistics for group in range(metadata.num_row_groups)]
        if any(chunk is None or not chunk.has_null_count for chunk in chunks):
            continue
        nulls[name] = sum(chunk.null_count for chunk in chunks)
        known = [chunk for chunk in chunks if chunk.has_min_max]
        if len(known) == len(chunks) and known:
            low[name] = min(chunk.min for chunk in known)
            high[name] = max(chunk.max for chunk in known)
    return {"numRecords": metadata.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls}


def statistics_json(file: StagedFile) -> str:
    """The statistics as a Delta add action carries them; long strings are left out, where a bound would need care."""
    statistics = dict(file.statistics)
    for bound in ("minValues", "maxValues"):
        values = {name: _delta_value(value) for name, value in statistics[bound].items()}
        statistics[bound] = {name: value for name, value in values.items() if value is not None}
    return json.dumps(statistics)


def _delta_value(value: Any) -> Any:
    if isinstance(value, datetime):
        utc = value.astimezone(timezone.utc) if value.tzinfo else value.replace(tzinfo=timezone.utc)
        return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03d}Z"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        return value if len(value) <= 32 else None
    return value if isinstance(value, (bool, int, float)) else None
