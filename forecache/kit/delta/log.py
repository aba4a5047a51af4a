"""Reading a table's log: its files at the newest version, by partition, removed files, and single entries."""

import bisect
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa

from forecache.base.settings import Settings
from forecache.base.steps import look_once
from forecache.kit.delta.errors import LOG, damaged_file, open_data_file
from forecache.kit.delta.files import DataFile, Place, list_entries, partition_text, place_of

if TYPE_CHECKING:
    from deltalake import DeltaTable

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.\d{10}\.(\d{10}))?\.parquet")


def open_if_exists(settings: Settings, name: str, *, version: int | None = None) -> "DeltaTable | None":
    """Open a table at a version (default: the newest); None if it does not exist. DamagedError for a damaged log."""
    return look_once((settings.table_uri(name), version), lambda: _open_if_exists(settings, name, version))


def _open_if_exists(settings: Settings, name: str, version: int | None) -> "DeltaTable | None":
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        with reading_log(place_of(settings, name), name):
            return DeltaTable(settings.table_uri(name), version=version, storage_options=settings.storage_options)
    except TableNotFoundError:
        return None


class CachedTable:
    """A table that is opened once and then updated, for frequent commits; to be used by one thread."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self._name = settings, name
        self._delta: DeltaTable | None = None

    def open_newest(self) -> "DeltaTable | None":
        """The table, updated to its newest version; None if it does not exist."""
        if self._delta is not None:
            try:
                self._delta.update_incremental()
                return self._delta
            except Exception:  # noqa: BLE001  # such as a cleaned log; opening the table again reports what is wrong
                self._delta = None
        self._delta = open_if_exists(self._settings, self._name)
        return self._delta


def read_actions(delta: "DeltaTable") -> pa.Table:
    """The files that a table consists of, with their statistics."""
    return pa.RecordBatchReader.from_stream(delta.get_add_actions(flatten=True)).read_all()


def active_files(delta: "DeltaTable") -> list[DataFile]:
    """The files that a table consists of; of their statistics only `numRecords` (-1: not known)."""
    actions = delta.get_add_actions(flatten=True)
    names = actions.schema.names
    columns = {
        name: actions.column(name).to_pylist() for name in names if not name.startswith(("min.", "max.", "null"))
    }
    rows = columns.get("num_records") or [None] * actions.num_rows
    partitions = [name for name in names if name.startswith("partition.")]
    return [
        DataFile(
            unquote(columns["path"][i]),
            columns["size_bytes"][i],
            {name.removeprefix("partition."): partition_text(columns[name][i]) for name in partitions},
            {"numRecords": -1 if rows[i] is None else rows[i]},
        )
        for i in range(actions.num_rows)
    ]


def group_by_partition(files: Sequence[DataFile], column: str) -> dict[str, list[DataFile]]:
    """Files by their value in a partition column, as the Delta log writes it."""
    found: dict[str, list[DataFile]] = {}
    for file in files:
        found.setdefault(str(file.partition.get(column)), []).append(file)
    return found


@contextmanager
def reading_log(place: Place, table: str) -> Iterator[None]:
    """Raise DamagedError with the damaged file of a table's log if the block cannot open the table because of it."""
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        yield
    except TableNotFoundError:
        raise
    except (DeltaError, OSError, ValueError) as error:
        damaged = damaged_log_file(place)
        if damaged is None:
            raise
        raise damaged_file(damaged, table) from error


def damaged_log_file(place: Place) -> str | None:
    """The first file of a table's log, from its newest checkpoint on, that delta-rs cannot read; None if none."""
    from deltalake.exceptions import DeltaError

    try:
        names = [info.path.rpartition("/")[2] for info in list_entries(place.open(), LOG)]
    except OSError:
        return None
    checkpoint, parts = newest_checkpoint(names)
    versions = entries_after(names, checkpoint)

    def is_unreadable(version: int) -> bool:
        from deltalake import DeltaTable

        try:
            DeltaTable(place.uri, version=version, storage_options=dict(place.options) or None).get_add_actions()
        except (DeltaError, ValueError):
            return True
        except OSError:  # for example an object store that does not answer
            return False
        return False

    if parts and is_unreadable(checkpoint):
        return f"{LOG}/{parts[0]}"
    if not versions or not is_unreadable(versions[-1]):
        return None
    first = bisect.bisect_left(versions, True, key=is_unreadable)
    return f"{LOG}/{versions[first]:020d}.json"


def newest_checkpoint(names: Sequence[str]) -> tuple[int, list[str]]:
    """The version of the newest complete checkpoint among a log's files, and its parts' names; -1 and [] if none."""
    found: dict[tuple[int, int], list[str]] = {}
    for name in names:
        if match := _CHECKPOINT.fullmatch(name):
            found.setdefault((int(match[1]), int(match[2] or 1)), []).append(name)
    whole = [(version, sorted(parts)) for (version, count), parts in found.items() if len(parts) == count]
    return max(whole, default=(-1, []))


def entries_after(names: Sequence[str], version: int) -> list[int]:
    """The versions after one that have an entry in the log, ascending."""
    entries = (_ENTRY.fullmatch(name) for name in names)
    return sorted(int(entry[1]) for entry in entries if entry and int(entry[1]) > version)


def read_entry(filesystem: Any, version: int, table: str) -> list[dict[str, Any]]:
    """The actions of one entry of a table's log; FileNotFoundError if it does not exist (any more), or DamagedError."""
    path = f"{LOG}/{version:020d}.json"
    with filesystem.open_input_stream(path) as stream:
        content = stream.read()
    try:
        return [json.loads(line) for line in content.splitlines() if line.strip()]
    except ValueError as error:
        raise damaged_file(path, table) from error


def removed_files(settings: Settings, name: str) -> dict[str, int] | None:
    """By path, the time (ms since 1970) of each removal that the newest checkpoint or a later entry records.

    None if that is not known: an entry after the newest checkpoint, or since the first, is missing from the log, for
    example because another commit cleans the log at this moment. `_last_checkpoint` is optional in Delta's protocol and
    may be old, lost or torn, so the log's folder is listed.
    """
    filesystem = place_of(settings, name).open()
    names = [info.path.rpartition("/")[2] for info in list_entries(filesystem, LOG)]
    checkpoint, parts = newest_checkpoint(names)
    later = entries_after(names, checkpoint)
    if not (later or parts) or later != list(range(checkpoint + 1, checkpoint + 1 + len(later))):
        return None
    found: dict[str, int] = {}
    try:
        for part in parts:
            found |= _removed_in_checkpoint(filesystem, f"{LOG}/{part}", name)
        for version in later:
            for action in read_entry(filesystem, version, name):
                if "remove" in action:
                    found[unquote(action["remove"]["path"])] = action["remove"].get("deletionTimestamp") or 0
    except FileNotFoundError:
        return None
    return found


def _removed_in_checkpoint(filesystem: Any, path: str, table: str) -> dict[str, int]:
    import pyarrow.parquet as pq

    with open_data_file(filesystem, path, table) as source:
        rows = pq.read_table(source, columns=["remove"])["remove"].to_pylist()
    return {
        unquote(row["path"]): row["deletionTimestamp"] or 0
        for row in rows
        if row is not None and row["path"] is not None
    }
