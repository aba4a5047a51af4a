"""Pinning an existing Delta table through its log."""

from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs

from forecache.base.errors import UnavailableError
from forecache.declare import Snapshot, TableSource
from forecache.kit.delta.files import Place
from forecache.lake.sources.tables.commit_history import TableCommit, read_commits
from forecache.lake.sources.tables.pinned_table import PinnedFile, PinnedTable, source_error
from forecache.lake.sources.tables.schema import require_source_columns

if TYPE_CHECKING:
    from deltalake import DeltaTable


def pin_delta(source: TableSource, place: Place) -> PinnedTable:
    """Pin a Delta table at its newest version.

    Raises:
        InputError: There is no Delta table, or its columns are not those declared.
        UnavailableError: The object store does not answer.
    """
    table = open_delta(source, place)
    metadata, by_version = table.metadata(), isinstance(source.time, Snapshot) and source.time.day is None
    require_source_columns(source, _types(table), where=f"version {table.version()} of {place.uri}")
    commits = _commits(source, place, table.version()) if by_version or _allows_deletion_vectors(table) else []
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
    """Open the table at a version, or at its newest.

    Raises:
        InputError: There is no such table, or that version no longer exists.
        UnavailableError: The object store does not answer.
    """
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
                "Score later nights, keep versions longer, or keep all states in the table: Snapshot(day=...).",
            ) from error
        raise _unavailable_error(source, place, error) from error


def _unavailable_error(source: TableSource, place: Place, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"Source {source.name!r} cannot be read: {place.uri} does not open: {str(error).splitlines()[0]}.",
        remedy="Check its `uri` and FORECACHE_STORAGE_OPTIONS.",
    )


def require_version(pinned: PinnedTable, version: int) -> None:
    """Refuse an older version that has other columns, or some of whose files were removed.

    Raises:
        InputError: With table, version and remedy.
    """
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
            "Score later nights, keep files longer, or keep all states in the table: Snapshot(day=...).",
        )


def _types(table: "DeltaTable") -> dict[str, str]:
    return {field.name: str(getattr(field.type, "type", field.type)) for field in table.schema().fields}


def _files(table: "DeltaTable", day_column: str) -> list[PinnedFile]:
    actions = pa.table(table.get_add_actions(flatten=True))
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


def _commits(source: TableSource, place: Place, version: int) -> list[TableCommit]:
    try:
        return read_commits(place, version)
    except OSError as error:
        raise _unavailable_error(source, place, error) from error


def _allows_deletion_vectors(table: "DeltaTable") -> bool:
    """Return whether rows may be deleted by deletion vectors, which delta-rs does not show."""
    return "deletionVectors" in (table.protocol().reader_features or ())


def _last_deletion(commits: list[TableCommit]) -> str:
    versions = [commit.version for commit in commits if commit.marks_rows]
    return f"rows deleted at {max(versions)}" if versions else ""
