"""Maintenance of a table: its small files are merged, and files that nothing can ask for any more are removed.

Merged are the four small tables (`SORTED_BY`), and raw and quarantined rows, of which a late file adds a small file to
an old day. Features, predictions and training sets stay as they were written: each night is one commit of few files,
and verdicts, the ledger and published versions name these files.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from forecache.errors import DamagedError
from forecache.lake.delta.commit import Change, State, Target, commit
from forecache.lake.delta.files import DataFile, place_of, write_file
from forecache.lake.delta.log import active_files
from forecache.lake.delta.small_tables import SORTED_BY, merge_files
from forecache.lake.delta.tables import open_table
from forecache.lake.delta.writers import new_folder, new_path
from forecache.lake.steps import step
from forecache.lake.turn import own_turn
from forecache.results import no_progress
from forecache.settings import Settings

RETENTION = timedelta(days=7)
"""A file is removed only once it has been out of its table, or was never in it, for this long."""
_MERGED_TABLES = ("raw_", "quarantine_")
_SMALL_BYTES, _MERGED_BYTES = 32 << 20, 128 << 20
_MERGED_ROWS = 1 << 17
_BATCH_ROWS = 1 << 16
_ENTRIES_AT_ONCE = 16
_ENTRY = re.compile(r"_delta_log/(\d{20})\.json")


@dataclass(frozen=True)
class Pin:
    """A Delta version that something names; where it is about one as-of date, `partition` is that date (ISO)."""

    version: int
    partition: str | None = None


@dataclass(frozen=True)
class Maintained:
    """What maintenance did to a table, or would do.

    Attributes:
        table_files_before, table_files_after: Files that the newest version consists of.
        files_before, files_after: All data files in the table's folder, with those of older versions.
        bytes_before, bytes_after: Their size.
        merged: Files of the newest version that were merged into larger ones.
        removed: Files that were removed.
    """

    table: str
    table_files_before: int
    table_files_after: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    merged: int
    removed: int


@dataclass
class _Span:
    """The versions that a file belongs to: from `added` to the one before `removed`; None: not known, or still."""

    added: int = -1
    removed: int | None = None
    removed_ms: int = 0


def maintain_table(
    settings: Settings, name: str, pins: Collection[Pin], *, dry_run: bool = False, retention: timedelta = RETENTION
) -> Maintained:
    """Merge a table's small files, and remove each file that is in no version that is newest, pinned or recent.

    Safe at any time and beside any run: killed, it leaves the table as it was or merged.

    Args:
        pins: Versions whose files stay.
        dry_run: Change nothing; `*_after` are then as if all that is removable had been removed.

    Raises:
        DamagedError: A file has other rows than the log says; the table is as it was.
        ConflictError, UnavailableError: See `forecache.lake.delta.commit.commit`.
    """
    before, table_before = _data_files(settings, name), active_files(open_table(settings, name))
    with _no_ingestion(settings, name):
        merged = sum(len(group) for group in _groups(name, table_before)) if dry_run else _merge(settings, name)
    doomed = _removable(settings, name, pins, retention)
    if not dry_run:
        _remove(settings, name, doomed)
    gone = {info.path for info in doomed} if dry_run else set[str]()
    after = [info for info in _data_files(settings, name) if info.path not in gone]
    return Maintained(
        name,
        len(table_before),
        len(active_files(open_table(settings, name))),
        len(before),
        len(after),
        sum(info.size for info in before),
        sum(info.size for info in after),
        merged,
        len(doomed),
    )


def _no_ingestion(settings: Settings, name: str) -> AbstractContextManager[None]:
    """Wait for an ingestion of this machine, which would begin anew where the table gets other files."""
    if not name.startswith(_MERGED_TABLES):
        return nullcontext()
    return own_turn(settings, f"raw_{name.partition('_')[2]}", "", no_progress)


def _groups(name: str, files: Sequence[DataFile]) -> list[list[DataFile]]:
    """Files that are to become one each."""
    if name in SORTED_BY:
        small = [file for file in files if file.rows < _MERGED_ROWS]
        return [small] if len(small) > 1 else []
    if not name.startswith(_MERGED_TABLES):
        return []
    groups: dict[tuple[tuple[str, str | None], ...], list[list[DataFile]]] = {}
    for file in files:
        if file.size_bytes < _SMALL_BYTES:
            of_partition = groups.setdefault(tuple(file.partition.items()), [[]])
            if sum(each.size_bytes for each in of_partition[-1]) > _MERGED_BYTES:
                of_partition.append([])
            of_partition[-1].append(file)
    return [group for of_partition in groups.values() for group in of_partition if len(group) > 1]


def _merge(settings: Settings, name: str) -> int:
    """Merge small files in one commit; how many."""
    groups: list[list[DataFile]] = []
    merged: list[DataFile] = []

    def decide(state: State) -> Change:
        nonlocal groups, merged
        there = {file.path for file in state.files}
        # What was merged for an earlier attempt holds while its files are in the table: files never change.
        if not groups or any(file.path not in there for group in groups for file in group):
            groups = _groups(name, state.files)
            merged = [_merged(settings, name, state, group) for group in groups]
        return Change(merged, [file for group in groups for file in group], rearranged=True)

    commit(Target(settings, name, open_table(settings, name).schema()), decide)
    return sum(map(len, groups))


def _merged(settings: Settings, name: str, state: State, files: Sequence[DataFile]) -> DataFile:
    if name in SORTED_BY:
        written = merge_files(settings, name, state, files)
    else:
        assert state.delta is not None
        partition = files[0].partition
        schema = pa.schema([field for field in pa.schema(state.delta.schema()) if field.name not in partition])
        filesystem = place_of(settings, name).open()
        written = write_file(filesystem, new_path(new_folder(), partition), schema, _rows(filesystem, files, schema))
    known = [file.rows for file in files]
    if min(known) >= 0 and written.rows != sum(known):
        raise DamagedError(
            f"{len(files)} files of the table {name!r} have {written.rows:,} rows where its log says {sum(known):,}.",
            remedy="`forecache doctor --deep` names the damaged file.",
        )
    return written


def _rows(filesystem: Any, files: Sequence[DataFile], schema: pa.Schema) -> Iterator[pa.Table]:
    for file in files:
        with filesystem.open_input_file(file.path) as source:
            for batch in pq.ParquetFile(source).iter_batches(_BATCH_ROWS, use_threads=False):
                names = batch.schema.names
                columns = [
                    batch.column(field.name).cast(field.type)
                    if field.name in names
                    else pa.nulls(batch.num_rows, field.type)
                    for field in schema
                ]
                yield pa.Table.from_arrays(columns, schema=schema)


def _data_files(settings: Settings, name: str) -> list[Any]:
    """The Parquet files below a table, in its newest version or not; neither its log's nor its change feed's."""
    return [info for info in _listing(settings, name) if _is_data(info)]


def _listing(settings: Settings, name: str) -> list[Any]:
    found = place_of(settings, name).open().get_file_info(pa.fs.FileSelector("", allow_not_found=True, recursive=True))
    return [info for info in found if info.type == pa.fs.FileType.File]


def _is_data(info: Any) -> bool:
    return info.path.endswith(".parquet") and not info.path.startswith(("_delta_log/", "_change_data/"))


def _removable(settings: Settings, name: str, pins: Collection[Pin], retention: timedelta) -> list[Any]:
    """The files that neither the newest version nor a pinned one has, and none had in the time of the retention."""
    cutoff = datetime.now(timezone.utc) - retention
    # Listed before the table is opened: what is committed in between is not taken for left over.
    listing = _listing(settings, name)
    active = {file.path for file in active_files(open_table(settings, name))}
    unused = [info for info in listing if _is_data(info) and info.path not in active and info.mtime < cutoff]
    if not unused:
        return []
    entries = sorted((int(found[1]), info.path) for info in listing if (found := _ENTRY.fullmatch(info.path)))
    spans, oldest = _spans(settings, name, [path for _, path in entries]), entries[0][0] if entries else 0
    # The log may not go back to the first version: what it does not mention may be in one before.
    is_unsure = any(0 <= pin.version < oldest for pin in pins)

    def is_removable(info: Any) -> bool:
        of_file = spans.get(info.path)
        if of_file is None:
            return not is_unsure
        if any(span.removed is None or span.removed_ms / 1000 >= cutoff.timestamp() for span in of_file):
            return False
        return not any(_is_pinned(info.path, span, pin) for span in of_file for pin in pins)

    return [info for info in unused if is_removable(info)]


def _is_pinned(path: str, span: _Span, pin: Pin) -> bool:
    if span.removed is None or not span.added <= pin.version < span.removed:
        return False
    return pin.partition is None or "=" not in path or f"={pin.partition}/" in path


def _spans(settings: Settings, name: str, entries: Sequence[str]) -> dict[str, list[_Span]]:
    """By file, the versions that had it, as far as the log's entries tell."""
    from urllib.parse import unquote

    filesystem = place_of(settings, name).open()

    def read(path: str) -> list[dict[str, Any]]:
        with suppress(FileNotFoundError), filesystem.open_input_stream(path) as stream:
            return [json.loads(line) for line in stream.read().splitlines() if line.strip()]
        return []  # an append has cleaned the log since it was listed

    found: dict[str, list[_Span]] = {}
    with ThreadPoolExecutor(_ENTRIES_AT_ONCE, thread_name_prefix="forecache-log") as threads:
        for path, actions in zip(entries, threads.map(read, entries), strict=True):
            version = int(path[-25:-5])
            for action in actions:
                if "add" in action:
                    found.setdefault(unquote(action["add"]["path"]), []).append(_Span(version))
                elif "remove" in action:
                    of_file = found.setdefault(unquote(action["remove"]["path"]), [])
                    if not of_file or of_file[-1].removed is not None:
                        of_file.append(_Span())
                    of_file[-1].removed = version
                    of_file[-1].removed_ms = action["remove"].get("deletionTimestamp") or 0
    return found


def _remove(settings: Settings, name: str, files: Sequence[Any]) -> None:
    filesystem = place_of(settings, name).open()
    root = Path(settings.table_uri(name))
    for info in files:
        with suppress(FileNotFoundError):  # another maintenance came first
            filesystem.delete_file(info.path)
        if "://" not in settings.lake_uri:
            _tidy(root, root / info.path)
        step("file removed")


def _tidy(root: Path, file: Path) -> None:
    """Remove Hadoop's checksum of a file that is gone, and the folders that this leaves empty.

    A partition's folder stays: a run may be about to make a folder of its own in it.
    """
    (file.parent / f".{file.name}.crc").unlink(missing_ok=True)
    top = root / file.relative_to(root).parts[0]
    for folder in file.parents:
        if folder == root or (folder == top and "=" in folder.name):
            return
        try:
            folder.rmdir()
        except OSError:
            return
