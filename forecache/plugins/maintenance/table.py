"""Maintenance of a table: small files are merged, and files that no needed version has are removed.

Files are merged in the small tables (`SORTED_BY`), in raw and quarantine tables, where a late landing file adds a small
file to an old day, and in the closed hours of streams, which commit a small file a second. Features, predictions and
training sets stay as they were written: each as-of date is one commit of few files, and verdicts, the ledger and
published versions name these files.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from forecache.base.results import no_progress
from forecache.base.settings import Settings
from forecache.base.steps import lake_step
from forecache.base.table_names import QUARANTINE, RAW
from forecache.kit.delta.commit import TableState, Target
from forecache.kit.delta.files import RETENTION, DataFile, list_entries, place_of
from forecache.kit.delta.log import active_files, read_entry, removed_files
from forecache.kit.delta.merge_files import MergePolicy, PolicyOf, choose_groups, merge_small_files
from forecache.kit.delta.small_tables import SORTED_BY, rename_table_columns, small_table_policy
from forecache.kit.delta.stream_tables import HOUR, KEPT, has_short_log, is_closed, is_stream_table, sort_by_position
from forecache.kit.delta.tables import open_table
from forecache.lake.stage_runner import hold_table_lock

_INGESTED = (RAW, QUARANTINE)
_ENTRIES_AT_ONCE = 16
_ENTRY = re.compile(r"_delta_log/(\d{20})\.json")


@dataclass(frozen=True)
class Pin:
    """A Delta version that is still needed; `partition` is the as-of date (ISO) if only that one is needed."""

    version: int
    partition: str | None = None


@dataclass(frozen=True)
class MaintenanceResult:
    """Result of the maintenance of a table, or of a dry run."""

    table: str
    table_files_before: int  # of the newest version
    table_files_after: int
    files_before: int  # all data files, also those of older versions
    files_after: int
    bytes_before: int
    bytes_after: int
    merged: int  # files of the newest version
    removed: int


def maintain_table(
    settings: Settings, name: str, pins: Collection[Pin], *, dry_run: bool = False, retention: timedelta = RETENTION
) -> MaintenanceResult:
    """Merge a table's small files, and remove each file that is in no version that is newest, pinned or recent.

    Safe at any time and concurrently with any run; if it is killed, the table is unchanged or merged. DamagedError if
    the row count of a file differs from the log; the table is unchanged. A dry run changes nothing; `*_after` then
    leave out the files that would be removed.
    """
    if has_short_log(name):
        retention = min(retention, KEPT)
    before, table_before = data_files(settings, name), active_files(open_table(settings, name))
    with _hold_ingestion_lock(settings, name):
        merged = (
            sum(len(group) for _, group in choose_groups(table_before, merge_policy(name)))
            if dry_run
            else merge_table(settings, name)
        )
    if dry_run:
        gone = {info.path for info in removable_files(settings, name, pins, retention)}
        removed = len(gone)
    else:
        gone, removed = set[str](), remove_unused_files(settings, name, pins, retention)
    after = [info for info in data_files(settings, name) if info.path not in gone]
    return MaintenanceResult(
        name,
        len(table_before),
        len(active_files(open_table(settings, name))),
        len(before),
        len(after),
        sum(info.size for info in before),
        sum(info.size for info in after),
        merged,
        removed,
    )


def _hold_ingestion_lock(settings: Settings, name: str) -> AbstractContextManager[object]:
    """Hold the lock of ingestion if it writes this table, since it would start over if the table's files changed."""
    for kind in _INGESTED:
        if name.startswith(kind):
            return hold_table_lock(settings, RAW + name.removeprefix(kind), "", no_progress)
    return nullcontext()


def merge_policy(name: str) -> PolicyOf:
    """The policies by which the small files of a table's partitions are merged."""
    now = datetime.now(timezone.utc)

    def policy_of(partition: Mapping[str, str | None]) -> MergePolicy | None:
        if name in SORTED_BY:
            return small_table_policy(name)
        is_complete = name.startswith(_INGESTED) or (
            is_stream_table(name) and (HOUR not in partition or is_closed(partition[HOUR], now))
        )
        return MergePolicy() if is_complete else None

    return policy_of


def merge_table(settings: Settings, name: str) -> int:
    """Merge a table's small files in one commit; returns how many were merged."""
    if name in SORTED_BY:
        rename_table_columns(settings, name)

    def sort_files(state: TableState) -> Sequence[DataFile]:
        return sort_by_position(state.delta, state.files) if state.delta and is_stream_table(name) else state.files

    target = Target(settings, name, open_table(settings, name).schema())
    return merge_small_files(target, merge_policy(name), sort_files=sort_files)


@dataclass
class _FileLifetime:
    """The versions that have a file: from `added` to the one before `removed`, which is None if it was not removed."""

    added: int = -1
    removed: int | None = None
    removed_ms: int = 0


def data_files(settings: Settings, name: str) -> list[Any]:
    """The Parquet files below a table, of any version or none; without those of its log and its change feed."""
    return [info for info in _list_files(settings, name) if _is_data(info)]


def _list_files(settings: Settings, name: str) -> list[Any]:
    found = list_entries(place_of(settings, name).open(), "", recursive=True)
    return [info for info in found if info.type == pa.fs.FileType.File]


def _is_data(info: Any) -> bool:
    return info.path.endswith(".parquet") and not info.path.startswith(("_delta_log/", "_change_data/"))


def removable_files(settings: Settings, name: str, pins: Collection[Pin], retention: timedelta) -> list[Any]:
    """The files that are not part of the newest version, of a pinned one, or of any in the time of the retention.

    [] if the log does not tell what was removed lately.
    """
    cutoff = datetime.now(timezone.utc) - retention
    # Listed before the table is opened, so that a file committed in between is not taken for unused.
    listing = _list_files(settings, name)
    active = {file.path for file in active_files(open_table(settings, name))}
    unused = [info for info in listing if _is_data(info) and info.path not in active and info.mtime < cutoff]
    if not unused:
        return []
    # Removals in log entries that were cleaned up are known from the newest checkpoint.
    removed_ms = removed_files(settings, name)
    if removed_ms is None:
        return []
    unused = [info for info in unused if removed_ms.get(info.path, 0) / 1000 < cutoff.timestamp()]
    # Old versions of such a table are not needed, so its log's entries, up to 86,400 a day, are not read.
    if has_short_log(name):
        return unused
    versions = sorted(int(found[1]) for info in listing if (found := _ENTRY.fullmatch(info.path)))
    spans, oldest = _file_lifetimes(settings, name, versions), versions[0] if versions else 0
    # The log may not go back to the first version: a file that it does not mention may belong to an older one.
    is_unsure = any(0 <= pin.version < oldest for pin in pins)

    def is_removable(info: Any) -> bool:
        of_file = spans.get(info.path)
        if of_file is None:
            return not is_unsure
        if any(span.removed is None or span.removed_ms / 1000 >= cutoff.timestamp() for span in of_file):
            return False
        return not any(_is_pinned(info.path, span, pin) for span in of_file for pin in pins)

    return [info for info in unused if is_removable(info)]


def _is_pinned(path: str, span: _FileLifetime, pin: Pin) -> bool:
    if span.removed is None or not span.added <= pin.version < span.removed:
        return False
    return pin.partition is None or "=" not in path or f"={pin.partition}/" in path


def _file_lifetimes(settings: Settings, name: str, versions: Sequence[int]) -> dict[str, list[_FileLifetime]]:
    """By file, the versions that had it, as far as the log has entries."""
    from urllib.parse import unquote

    filesystem = place_of(settings, name).open()

    def read(version: int) -> list[dict[str, Any]]:
        with suppress(FileNotFoundError):
            return read_entry(filesystem, version, name)
        return []  # an append has cleaned the log since it was listed

    found: dict[str, list[_FileLifetime]] = {}
    with ThreadPoolExecutor(_ENTRIES_AT_ONCE, thread_name_prefix="forecache-log") as threads:
        for version, actions in zip(versions, threads.map(read, versions), strict=True):
            for action in actions:
                if "add" in action:
                    found.setdefault(unquote(action["add"]["path"]), []).append(_FileLifetime(version))
                elif "remove" in action:
                    of_file = found.setdefault(unquote(action["remove"]["path"]), [])
                    if not of_file or of_file[-1].removed is not None:
                        of_file.append(_FileLifetime())
                    of_file[-1].removed = version
                    of_file[-1].removed_ms = action["remove"].get("deletionTimestamp") or 0
    return found


def remove_unused_files(settings: Settings, name: str, pins: Collection[Pin], retention: timedelta) -> int:
    """Remove the `removable_files`; returns how many."""
    unused = removable_files(settings, name, pins, retention)
    filesystem = place_of(settings, name).open()
    root = Path(settings.table_uri(name))
    for info in unused:
        with suppress(FileNotFoundError):  # another maintenance came first
            filesystem.delete_file(info.path)
        if not settings.lake_is_remote:
            _remove_empty_folders(root, root / info.path)
        lake_step("file removed")
    return len(unused)


def _remove_empty_folders(root: Path, file: Path) -> None:
    """Remove Hadoop's checksum of a removed file, and the folders that are then empty, but that of a partition: a
    run may be about to create a folder in it."""
    (file.parent / f".{file.name}.crc").unlink(missing_ok=True)
    top = root / file.relative_to(root).parts[0]
    for folder in file.parents:
        if folder == root or (folder == top and "=" in folder.name):
            return
        try:
            folder.rmdir()
        except OSError:
            return
