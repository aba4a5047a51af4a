"""What a table's log says: its files as of its newest version, by partition, what was removed, and single entries."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from forecache.lake.delta.files import DataFile, partition_text
from forecache.settings import Settings

if TYPE_CHECKING:
    from deltalake import DeltaTable


def open_if_exists(settings: Settings, name: str) -> "DeltaTable | None":
    """A table at its newest version, None where there is none."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
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


def read_entry(filesystem: Any, version: int) -> list[dict[str, Any]]:
    """The actions of one entry of a table's log; FileNotFoundError where it is not there (any more).

    Args:
        filesystem: Of the table, see `forecache.lake.delta.files.Place.open`.
    """
    with filesystem.open_input_stream(f"_delta_log/{version:020d}.json") as stream:
        return [json.loads(line) for line in stream.read().splitlines() if line.strip()]


def removed_files(filesystem: Any) -> dict[str, int]:
    """By path, when files were removed that the newest checkpoint or a later entry remembers as such, in ms since 1970.

    Args:
        filesystem: As for `read_entry`.
    """
    version, found = _checkpoint(filesystem)
    while True:
        version += 1
        try:
            actions = read_entry(filesystem, version)
        except FileNotFoundError:
            return found
        for action in actions:
            if "remove" in action:
                found[unquote(action["remove"]["path"])] = action["remove"].get("deletionTimestamp") or 0


def _checkpoint(filesystem: Any) -> tuple[int, dict[str, int]]:
    """The version of the newest checkpoint, -1 where there is none, and what it remembers as removed."""
    import pyarrow.parquet as pq

    try:
        with filesystem.open_input_stream("_delta_log/_last_checkpoint") as stream:
            last = json.loads(stream.read())
    except FileNotFoundError:
        return -1, {}
    version, parts = int(last["version"]), last.get("parts")
    names = [f"{version:020d}.checkpoint.parquet"]
    if parts:
        names = [f"{version:020d}.checkpoint.{part:010d}.{parts:010d}.parquet" for part in range(1, parts + 1)]
    found: dict[str, int] = {}
    for name in names:
        with filesystem.open_input_file(f"_delta_log/{name}") as source:
            for row in pq.read_table(source, columns=["remove"])["remove"].to_pylist():
                if row is not None and row["path"] is not None:
                    found[unquote(row["path"])] = row["deletionTimestamp"] or 0
    return version, found
