"""Scored shards before they are visible: Parquet files below the prediction table that its log does not name yet.

A shard is one feature file of the night, or the whole night where it is small. The file that holds a shard's
predictions appears whole or not at all, and is the shard's entry in the ledger: its folder names what it was scored
from (model, features, declaration, code) and its footer how many rows it has. A killed run, run again, finds them and
scores the rest. What is never committed is outside the log, so that VACUUM removes it.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any
from urllib.parse import unquote

from forecache.pipeline import AS_OF
from forecache.scoring.night import FeatureFile, Night
from forecache.settings import Settings

WHOLE = "all"


@dataclass(frozen=True)
class StagedFile:
    """A scored Parquet file; `statistics` has numRecords, minValues, maxValues and nullCount as Delta names them."""

    path: str
    night: date
    shard: str
    size_bytes: int
    rows: int
    statistics: Mapping[str, Any]


def lake_filesystem(settings: Settings, table: str) -> Any:
    """A pyarrow file system rooted at a table, local or in an object store."""
    from deltalake.fs import DeltaStorageHandler
    from pyarrow import fs

    uri = settings.table_uri(table)
    if "://" not in uri:
        return fs.SubTreeFileSystem(uri, fs.LocalFileSystem())
    return fs.PyFileSystem(DeltaStorageHandler(uri, settings.storage_options or None))


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
    """By shard, the files of complete shards of a night, from whichever attempt has them."""
    from pyarrow import fs

    filesystem = lake_filesystem(settings, table)
    base = f"{AS_OF}={night.night.isoformat()}"
    folders = filesystem.get_file_info(fs.FileSelector(base, allow_not_found=True))
    expected = {WHOLE: night.rows} | {file.shard: file.rows for file in night.files}
    complete: dict[str, list[StagedFile]] = {}
    for folder in folders:
        if folder.type != fs.FileType.Directory or not folder.base_name.startswith(f"{night.tag}-"):
            continue
        for shard, files in _by_shard(filesystem, folder.path, night.night).items():
            if shard not in complete and sum(file.rows for file in files) == expected.get(shard):
                complete[shard] = files
    if WHOLE in complete:
        return {WHOLE: complete[WHOLE]}
    return complete


def missing_files(night: Night, staged: Mapping[str, Sequence[StagedFile]]) -> list[FeatureFile]:
    """The feature files that no complete shard covers."""
    return [] if WHOLE in staged else [file for file in night.files if file.shard not in staged]


def _by_shard(filesystem: Any, folder: str, night: date) -> dict[str, list[StagedFile]]:
    from pyarrow import fs

    found: dict[str, list[StagedFile]] = {}
    for info in filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True)):
        path: str = info.path
        if info.type != fs.FileType.File or not path.endswith(".parquet") or "/_temporary/" in path:
            continue
        parts = dict(part.split("=", 1) for part in path.split("/") if "=" in part)
        shard = unquote(parts.get("shard", WHOLE))
        file = describe_file(filesystem, path, night, shard, info.size)
        # An empty task leaves an empty file; one that a crash of the machine cut short counts for nothing either.
        if file is not None and file.rows:
            found.setdefault(shard, []).append(file)
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
