"""Pinning an existing Delta table through its log: its files, the time of each version, and whether it changed rows."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timezone
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs

from forecache.declare import Snapshot, TableSource
from forecache.kit.delta.files import Place
from forecache.kit.delta.log import read_actions, read_entry
from forecache.plugins.table_sources.pinned_table import (
    PinnedFile,
    PinnedTable,
    require_source_columns,
    source_error,
    unavailable_error,
)

if TYPE_CHECKING:
    from deltalake import DeltaTable
_ENTRY = re.compile(r"_delta_log/(\d{20})\.json")
_READ_AT_ONCE = 16
_UPKEEP = ("OPTIMIZE", "REORG", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES",
           "ADD CONSTRAINT", "DROP CONSTRAINT", "UPGRADE PROTOCOL", "CLUSTER BY", "COMPUTE STATS")  # fmt: skip
"""Operations that change no rows, whatever files they rewrite."""


@dataclass(frozen=True)
class TableCommit:
    """A version of a table."""

    version: int
    at: datetime  # the commit's own time, or else that of the log's entry; with time zone
    delivers: bool  # it wrote a state, perhaps the same again; false for upkeep such as OPTIMIZE
    marks_rows: bool  # it marked rows of remaining files as deleted


def pin_delta(source: TableSource, place: Place) -> PinnedTable:
    """Pin a Delta table at its newest version.

    InputError if there is none, or its columns are not those declared; UnavailableError if it does not open.
    """
    table = open_delta(source, place)
    metadata, by_version = table.metadata(), isinstance(source.time, Snapshot) and source.time.day is None
    require_source_columns(source, _types(table), where=f"version {table.version()} of {place.uri}")
    commits: list[TableCommit] = []
    if by_version or _allows_deletion_vectors(table):
        try:
            commits = read_commits(place, table.version())
        except OSError as error:
            raise unavailable_error(source, place.uri, error) from error
    return PinnedTable(
        source,
        place,
        str(metadata.id),
        table.version(),
        tuple(_files(table, source.day_column)),
        # The oldest entry that the log still has counts as a state even if it is upkeep: it has the rows of older ones.
        commits=tuple((c.version, c.at) for c in commits if c.delivers or c is commits[0]) if by_version else (),
        mark=_last_deletion(commits) if _allows_deletion_vectors(table) else "",
    )


def open_delta(source: TableSource, place: Place, version: int | None = None) -> "DeltaTable":
    """Open the table at a version, or at its newest; InputError or UnavailableError as `pin_delta`."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        return DeltaTable(place.uri, version=version, storage_options=dict(place.options) or None)
    except TableNotFoundError:
        raise source_error(
            source, f"there is no Delta table in {place.uri}", "Correct its `uri` or `format`."
        ) from None
    except (DeltaError, OSError) as error:
        if version is not None:
            raise source_error(
                source,
                f"{place.uri} has no version {version} any more",
                "Score later dates, keep versions longer, or keep all states in the table: Snapshot(day=...).",
            ) from error
        raise unavailable_error(source, place.uri, error) from error


def require_version(pinned: PinnedTable, version: int) -> None:
    """Refuse an older version that has other columns, or some of whose files were removed."""
    source, place = pinned.source, pinned.place
    if version == pinned.version:
        return
    table = open_delta(source, place, version)
    require_source_columns(source, _types(table), where=f"version {version} of {place.uri}")
    here = {file.path for file in pinned.files}
    older = [file.path for file in _files(table, "") if file.path not in here]
    found = place.open().get_file_info(older)
    gone = [info.path for info in found if info.type == pa.fs.FileType.NotFound]
    if gone:
        raise source_error(
            source,
            f"of version {version} of {place.uri} {len(gone)} files were removed by a vacuum",
            "Score later dates, keep files longer, or keep all states in the table: Snapshot(day=...).",
        )


def _types(table: "DeltaTable") -> dict[str, str]:
    return {field.name: str(getattr(field.type, "type", field.type)) for field in table.schema().fields}


def _files(table: "DeltaTable", day_column: str) -> list[PinnedFile]:
    actions = read_actions(table)
    paths = actions["path"].to_pylist()

    def values(column: str) -> list[Any]:
        return actions[column].to_pylist() if column in actions.column_names else [None] * len(paths)

    if f"partition.{day_column}" in actions.column_names:
        first = last = values(f"partition.{day_column}")
    else:
        fields = [field for field in table.schema().fields if field.name == day_column]
        mapped = [field.metadata.get("delta.columnMapping.physicalName") for field in fields]
        physical = (mapped or [None])[0] or day_column
        first, last = values(f"min.{physical}"), values(f"max.{physical}")
    bounds = zip(paths, first, last, strict=True)
    return [PinnedFile(unquote(path), path, day_of(low), day_of(high)) for path, low, high in bounds]


def day_of(value: Any) -> date | None:
    """The day (UTC) of a date, a timestamp or an ISO text; None for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return (value.astimezone(timezone.utc) if value.tzinfo else value).date()
    return value if isinstance(value, date) else None


def _allows_deletion_vectors(table: "DeltaTable") -> bool:
    """Return whether rows may be deleted by deletion vectors, which delta-rs does not show."""
    return "deletionVectors" in (table.protocol().reader_features or ())


def _last_deletion(commits: list[TableCommit]) -> str:
    versions = [commit.version for commit in commits if commit.marks_rows]
    return f"rows deleted at {max(versions)}" if versions else ""


def read_commits(place: Place, version: int) -> list[TableCommit]:
    """Read the versions up to one whose entries the log still has, ascending.

    delta-rs's history is not used: it numbers commits backwards from the newest, which is wrong if a commit has no
    commitInfo or if others commit meanwhile.
    """
    filesystem, table = place.open(), place.uri.rstrip("/").rpartition("/")[2]
    found = filesystem.get_file_info(pa.fs.FileSelector("_delta_log"))
    entries = [(int(match[1]), info) for info in found if (match := _ENTRY.fullmatch(info.path))]
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="forecache-commits") as threads:
        known = sorted((entry for entry in entries if entry[0] <= version), key=itemgetter(0))
        commits = threads.map(lambda entry: _read_commit(filesystem, table, *entry), known)
        return [commit for commit in commits if commit is not None]


def _read_commit(filesystem: Any, table: str, version: int, info: Any) -> TableCommit | None:
    """Read a version; None if its entry was removed from the log since that was listed, as the oldest ones are."""
    try:
        actions = read_entry(filesystem, version, table)
    except FileNotFoundError:
        return None
    told: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    files = [action.get("add") or action.get("remove") for action in actions]
    changed = [file for file in files if file and file.get("dataChange", True)]
    at = told.get("inCommitTimestamp") or told.get("timestamp")
    return TableCommit(
        version,
        datetime.fromtimestamp(at / 1000, timezone.utc) if at else info.mtime,
        delivers=told.get("operation") not in _UPKEEP and (bool(changed) or not any(files)),
        marks_rows=any(file.get("deletionVector") for file in changed),
    )
