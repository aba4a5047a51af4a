"""A fork of a lake: each of its tables at the same Delta version, whose files are those of the lake.

A data file, an entry of a log and a checkpoint are never changed once they are written, so in a folder both sides have
them, by hard links; in a bucket the object store copies them. Every later commit of one side is a new file that the
other does not see, and a file that one side removes stays for the other. So every engine reads a fork like any table,
and the texts that name what a stage depends on are equal.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings
from forecache.base.steps import try_step
from forecache.kit.delta.errors import LOG
from forecache.kit.delta.files import Place
from forecache.kit.delta.log import active_files, entries_after, newest_checkpoint
from forecache.kit.delta.small_tables import SORTED_BY
from forecache.kit.delta.tables import table_exists, table_names
from forecache.lake.ledger import LEDGER_TABLE
from forecache.plugins.trials.share_files import open_place, share_files
from forecache.serve.store.layout import REALTIME

_SMALL_FOLDERS = (".state", REALTIME)
"""Folders of the lake that are no tables."""
_SMALL_BYTES = 1 << 16
_NUMBERED = re.compile(r"(\d{20})\.")
_UNFINISHED = re.compile(r"[^/]+/staging/[^/]+/")  # of a release; a declaration may have this name, too
_LAST_CHECKPOINT = f"{LOG}/_last_checkpoint"  # the one file of a log that is written again; optional in the protocol
_TRIES = 10
_TABLES_AT_ONCE = 4  # in a bucket, whose answers are waited for


def fork_lake(base: Settings, lake: str) -> dict[str, int]:
    """Fork all tables of a lake into an empty folder or prefix; returns the version of each.

    The ledger comes first, so that it names no version that the fork of another table lacks.

    Raises:
        SettingsError: The lake is on another file system than the fork.
        UnavailableError: The lake's files belong to another user, whose files this one may not link.
    """
    source, target = place_of_lake(base), Place(lake, base.storage_options)
    versions: dict[str, int] = {}

    def fork(name: str) -> None:
        versions[name] = fork_table(_join_place(source, name), _join_place(target, name), only_newest=name in SORTED_BY)

    if table_exists(base, LEDGER_TABLE):
        fork(LEDGER_TABLE)
        try_step("ledger forked")

    def fork_other(name: str) -> None:
        fork(name)
        try_step("table forked")

    others = [name for name in table_names(base) if name != LEDGER_TABLE]
    with ThreadPoolExecutor(_TABLES_AT_ONCE if base.lake_is_remote else 1) as threads:
        list(threads.map(fork_other, others))
    for name in _SMALL_FOLDERS:
        copy_folder(_join_place(source, name), _join_place(target, name))
    return versions


def place_of_lake(settings: Settings) -> Place:
    """The lake as a place that files are shared from; a folder without links in its path."""
    uri = settings.lake_uri if settings.lake_is_remote else str(Path(settings.lake_uri).resolve())
    return Place(uri, settings.storage_options)


def _join_place(place: Place, name: str) -> Place:
    return replace(place, uri=f"{place.uri}/{name}")


def fork_table(source: Place, target: Place, *, only_newest: bool = False) -> int:
    """Fork a table at its newest version, which is returned; also while others commit to it and clean its log.

    With `only_newest` without the files of earlier versions: of small tables nobody reads these, and each of their
    commits has a folder.
    """
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):  # the log was cleaned meanwhile: a newer checkpoint replaces what is gone
            version = _fork_log(source, target)
            _fork_files(source, target, only_newest=only_newest)
            return version
        draft = open_place(target)
        draft.delete(draft.names())
    raise ConflictError(f"The log of {source.uri} is being cleaned again and again.", remedy="Try again.")


def _fork_log(source: Place, target: Place) -> int:
    folder = open_place(source)
    names = [name.removeprefix(f"{LOG}/") for name in folder.names(LOG)]
    checkpoint, parts = newest_checkpoint(names)
    entries = entries_after(names, checkpoint)
    # A folder that is listed while others add to it may lack an entry and have the next one.
    whole = [version for place, version in enumerate(entries) if version == checkpoint + 1 + place]
    if not (whole or parts):
        raise FileNotFoundError(source.uri)
    newest = whole[-1] if whole else checkpoint
    needed = {*parts, *(f"{version:020d}.json" for version in whole)}
    earlier = [
        name for name in names if (number := _NUMBERED.match(name)) and name not in needed and int(number[1]) <= newest
    ]
    share_files(source, target, [f"{LOG}/{name}" for name in sorted(needed)])
    share_files(source, target, [f"{LOG}/{name}" for name in earlier], missing_ok=True)  # as far as there are any
    hint = folder.read(_LAST_CHECKPOINT)
    with suppress(ValueError):
        if hint and json.loads(hint[0]).get("version") == checkpoint:  # and not of one that was written meanwhile
            with open_place(target).open(_LAST_CHECKPOINT, "wb") as copy:
                copy.write(hint[0])
    return newest


def _fork_files(source: Place, target: Place, *, only_newest: bool) -> None:
    from deltalake import DeltaTable

    if only_newest:
        forked = DeltaTable(target.uri, storage_options=dict(target.options) or None)
        share_files(source, target, [file.path for file in active_files(forked)])
    else:  # one of an earlier version may be removed meanwhile
        share_files(source, target, _data_files(open_place(source).names()), missing_ok=True)


def _data_files(names: Iterable[str]) -> list[str]:
    """A table's files except those of its log and what tasks are writing."""
    parts = {name: name.split("/") for name in names}
    return [name for name, of in parts.items() if not {LOG, "_temporary"} & {*of} and not of[-1].startswith(".")]


def link_folder(source: Path, target: Path) -> None:
    """Link the files of a folder that no process writes to any more; locks stay out."""
    folder = Place(str(source))
    names = [name for name in open_place(folder).names() if not name.endswith("lock")]
    share_files(folder, Place(str(target)), names)


def copy_folder(source: Place, target: Place) -> None:
    """Copy the files of a folder whose small files may be swapped; larger ones, such as models, are written once.

    Locks, leases and what is unfinished stay out.
    """
    sizes = {
        name: size
        for name, size in open_place(source).sizes().items()
        if not (name.endswith(("lock", ".lease")) or ".leases" in name.split("/") or _UNFINISHED.match(name))
    }
    shared = [name for name, size in sizes.items() if size > _SMALL_BYTES or "://" in source.uri]
    share_files(source, target, shared, missing_ok=True)
    for name in sizes.keys() - set(shared):
        copy = Path(target.uri, name)
        with suppress(FileNotFoundError):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(os.path.join(source.uri, name), copy)
