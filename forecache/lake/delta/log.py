"""What a table's log says: its files as of its newest version, by partition, what was removed, and single entries."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from forecache.lake.delta.files import DataFile, list_entries, partition_text, place_of
from forecache.lake.delta.read_errors import (
    LOG,
    damaged_file,
    entries_after,
    newest_checkpoint,
    open_data_file,
    reading_log,
)
from forecache.settings import Settings

if TYPE_CHECKING:
    from deltalake import DeltaTable


def open_if_exists(settings: Settings, name: str) -> "DeltaTable | None":
    """A table at its newest version, None where there is none; DamagedError names a damaged file of its log."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        with reading_log(place_of(settings, name), name):
            return DeltaTable(settings.table_uri(name), storage_options=settings.storage_options)
    except TableNotFoundError:
        return None


class Kept:
    """A table that is opened once and brought up to date then: for who commits often. Of one thread."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings, self._name = settings, name
        self._delta: DeltaTable | None = None

    def newest(self) -> "DeltaTable | None":
        """The table at its newest version, None where there is none."""
        if self._delta is not None:
            try:
                self._delta.update_incremental()
                return self._delta
            except Exception:  # noqa: BLE001  # such as a log that was cleaned: opening it anew says what is wrong
                self._delta = None
        self._delta = open_if_exists(self._settings, self._name)
        return self._delta


def active_files(delta: "DeltaTable") -> list[DataFile]:
    """The files that a table consists of, without their statistics but for `numRecords` (-1: not known)."""
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


def grouped(files: Sequence[DataFile], column: str) -> dict[str, list[DataFile]]:
    """Files by their value in a partition column, as the Delta log writes it."""
    found: dict[str, list[DataFile]] = {}
    for file in files:
        found.setdefault(str(file.partition.get(column)), []).append(file)
    return found


def read_entry(filesystem: Any, version: int, table: str) -> list[dict[str, Any]]:
    """The actions of one entry of a table's log.

    Args:
        filesystem: Of the table, see `forecache.lake.delta.files.Place.open`.
        table: Its name, for the error.

    Raises:
        FileNotFoundError: It is not there (any more).
        DamagedError: It is not what was written.
    """
    path = f"{LOG}/{version:020d}.json"
    with filesystem.open_input_stream(path) as stream:
        content = stream.read()
    try:
        return [json.loads(line) for line in content.splitlines() if line.strip()]
    except ValueError as error:
        raise damaged_file(path, table) from error


def removed_files(settings: Settings, name: str) -> dict[str, int] | None:
    """By path, when files were removed that the newest checkpoint or a later entry remembers as such, in ms since 1970.

    `_last_checkpoint` is optional in Delta's protocol and may be old, lost or torn, so the log's folder is listed.

    Returns:
        None if that is not known: an entry after the newest checkpoint, or from the first on, is not in the log (any
        more), as where another commit cleans the log at this moment.
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
