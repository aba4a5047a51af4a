"""Cost of storage: bytes in the lake, in the store, and on the remote that replicas pull from."""

import os
from pathlib import Path

from forecache.base.settings import Settings
from forecache.kit.delta.listing import list_tables
from forecache.plugins.cost.cost_line import CostLine, storage_line
from forecache.serve.store.replicas.sync import open_remote

_REMOTE = "://"


def storage_lines(settings: Settings) -> list[CostLine]:
    """Each table of the lake, each store, and each pipeline's versions on the remote; empty ones are left out."""
    if settings.lake_is_remote:  # walking all versions would list every file of a bucket
        lines = [
            storage_line(settings, table.name, "lake, newest version", table.size_bytes, in_object_store=True)
            for table in list_tables(settings)
        ]
    else:
        lines = [
            storage_line(settings, folder.name, "lake", _bytes_under(folder), in_object_store=False)
            for folder in _folders_in(Path(settings.lake_uri))
        ]
    for folder in _folders_in(settings.store_path):
        lines.append(storage_line(settings, folder.name, "store", _bytes_under(folder), in_object_store=False))
    if settings.store_remote:
        remote = open_remote(settings.store_remote, settings.storage_options)
        for name in sorted(remote.folders()):
            size = sum(remote.size(file) or 0 for file in remote.names(name))
            lines.append(storage_line(settings, name, "remote", size, in_object_store=_REMOTE in settings.store_remote))
    return [line for line in lines if line.amount]


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _bytes_under(folder: Path) -> int:
    """Bytes on the disk of all files under a folder; a file of several names counts once."""
    seen, total = set(), 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(path, name))
            except FileNotFoundError:  # a publish removes what it no longer needs
                continue
            if found.st_ino not in seen:
                seen.add(found.st_ino)
                total += min(found.st_size, found.st_blocks * 512)  # LMDB's files have holes
    return total
