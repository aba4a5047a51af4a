"""A fork of a lake: each of its tables at the same Delta version, whose files are hard links to the same bytes.

A data file, an entry of a log and a checkpoint are never changed once they are written, so both sides can have them.
Every later commit of one side is a new file that the other does not see, and a file that one side removes stays for
the other. So every engine reads a fork like any table, and the texts that name what a stage depends on are equal.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from forecache.base.errors import ConflictError, SettingsError, UnavailableError
from forecache.base.settings import Settings
from forecache.base.steps import try_step
from forecache.kit.delta.errors import LOG
from forecache.kit.delta.log import active_files, entries_after, newest_checkpoint
from forecache.kit.delta.small_tables import SORTED_BY
from forecache.kit.delta.tables import table_names
from forecache.lake.ledger import LEDGER_TABLE
from forecache.serve.store.layout import REALTIME

_SMALL_FOLDERS = (".state", REALTIME)
"""Folders of the lake that are no tables."""
_SMALL_BYTES = 1 << 16
_NUMBERED = re.compile(r"(\d{20})\.")
_LAST_CHECKPOINT = "_last_checkpoint"  # the one file of a log that is written again; optional in Delta's protocol
_TRIES = 10


def fork_lake(base: Settings, lake: Path) -> dict[str, int]:
    """Fork all tables of a lake into a new folder; returns the version of each.

    The ledger comes first, so that it names no version that the fork of another table lacks.

    Raises:
        SettingsError: The lake is in a bucket, or on another file system than the folder.
        UnavailableError: The lake's files belong to another user, whose files this one may not link.
    """
    if base.lake_is_remote:
        raise SettingsError(
            f"The lake {base.lake_uri} is in a bucket, and a trial forks only a lake in a folder.",
            remedy="Try the change in an environment whose lake is in a folder.",
        )
    root = Path(base.lake_uri).resolve()
    lake.mkdir(parents=True, exist_ok=True)
    versions: dict[str, int] = {}
    if (root / LEDGER_TABLE / LOG).is_dir():
        versions[LEDGER_TABLE] = fork_table(root / LEDGER_TABLE, lake / LEDGER_TABLE)
        try_step("ledger forked")
    for name in table_names(base):
        if name not in versions:
            versions[name] = fork_table(root / name, lake / name)
            try_step("table forked")
    for name in _SMALL_FOLDERS:
        copy_folder(root / name, lake / name)
    return versions


def fork_table(source: Path, target: Path) -> int:
    """Fork a table at its newest version, which is returned; also while others commit to it and clean its log."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):  # the log was cleaned meanwhile: a newer checkpoint replaces what is gone
            version = _fork_log(source / LOG, target / LOG)
            _fork_files(source, target, only_newest=source.name in SORTED_BY)
            return version
        shutil.rmtree(target, ignore_errors=True)
    raise ConflictError(f"The log of {source} is being cleaned again and again.", remedy="Try again.")


def _fork_log(source: Path, target: Path) -> int:
    names = os.listdir(source)
    checkpoint, parts = newest_checkpoint(names)
    entries = entries_after(names, checkpoint)
    # A folder that is listed while others add to it may lack an entry and have the next one.
    whole = [version for place, version in enumerate(entries) if version == checkpoint + 1 + place]
    if not (whole or parts):
        raise FileNotFoundError(source)
    newest = whole[-1] if whole else checkpoint
    needed = {*parts, *(f"{version:020d}.json" for version in whole)}
    target.mkdir(parents=True)
    for name in sorted(needed):
        _link(source / name, target / name)
    for name in names:
        number = _NUMBERED.match(name)
        if number and name not in needed and int(number[1]) <= newest:
            with suppress(FileNotFoundError):  # earlier versions, as far as there are any
                _link(source / name, target / name)
    with suppress(FileNotFoundError, ValueError):
        hint = (source / _LAST_CHECKPOINT).read_bytes()
        if json.loads(hint).get("version") == checkpoint:  # and not of one that was written meanwhile
            (target / _LAST_CHECKPOINT).write_bytes(hint)
    return newest


def _fork_files(source: Path, target: Path, *, only_newest: bool) -> None:
    """Link the table's files: those of the newest version alone, or also those of earlier ones.

    Of small tables nobody reads earlier versions, and each of their commits has a folder.
    """
    from deltalake import DeltaTable

    names = [file.path for file in active_files(DeltaTable(str(target)))] if only_newest else _walk(source)
    for name in names:
        with suppress(*(() if only_newest else (FileNotFoundError,))):  # of an earlier version, and removed meanwhile
            _link(source / name, target / name)


def _walk(root: Path) -> Iterator[str]:
    """The names of a table's files below a folder, except of its log and what tasks are writing."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in (LOG, "_temporary")]
        relative = os.path.relpath(folder, root)
        yield from (f"{relative}/{name}" for name in files if not name.startswith("."))


def _link(source: Path, target: Path) -> None:
    """Make a hard link, and the folder that it is in if that is missing."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        if target.parent.is_dir():
            raise
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise SettingsError(
                f"The trials' folder is on another file system than {source}, and a fork consists of hard links.",
                remedy="Set FORECACHE_TRIALS to a folder on the file system of the lake.",
            ) from None
        if error.errno in (errno.EPERM, errno.EACCES):
            raise UnavailableError(
                f"{source} cannot be linked: it belongs to another user, and Linux lets only who may write it do so.",
                remedy="Run as the user or in the group that may write the lake's files; a trial does not write them.",
            ) from None
        raise


def link_folder(source: Path, target: Path) -> None:
    """Link the files of a folder that no process writes to any more; locks stay out."""
    for folder, _, files in os.walk(source):
        for name in files:
            if not name.endswith("lock"):
                path = Path(folder) / name
                _link(path, target / path.relative_to(source))


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a folder whose small files may be swapped; larger ones, such as models, are written once.

    Locks, leases and what is unfinished stay out.
    """
    for folder, _, files in os.walk(source):
        for name in files:
            path = Path(folder) / name
            copy = target / path.relative_to(source)
            if name.endswith(("lock", ".lease")) or {".leases", "staging"} & set(path.parts):
                continue
            with suppress(FileNotFoundError):
                copy.parent.mkdir(parents=True, exist_ok=True)
                if path.stat().st_size > _SMALL_BYTES:
                    _link(path, copy)
                else:
                    shutil.copyfile(path, copy)
