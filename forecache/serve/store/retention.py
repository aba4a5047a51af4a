"""Removal of leftovers of killed publishes, and of the files of old versions that nobody uses."""

import time
from pathlib import Path

from forecache.base.errors import UnavailableError
from forecache.kit.versioned.retention import remove_old_versions
from forecache.serve.store.layout import StoreLayout, remove_tree
from forecache.serve.store.store import Store, manifest_of

_UNFINISHED_S = 3600.0


def remove_leftovers(store: Store) -> int:
    """Remove leftovers of killed publishes and pulls; the caller holds the publisher's lock. Returns their number."""
    layout = store.layout
    removed = 0
    for path in layout.staging.iterdir():
        remove_tree(path)
        removed += 1
    remove_foreign_versions(store)
    last = store.pointer().last
    for number in store.version_numbers():
        if number > last:  # its manifest was written, but the pointer never moved
            store.layout.remove_version(number)
            removed += 1
    for path in _unfinished_files(layout):
        path.unlink()
        removed += 1
    return removed + remove_unreferenced(store)


def _unfinished_files(layout: StoreLayout) -> list[Path]:
    """Temporary files of killed processes that were about to replace a file."""
    found = [*layout.root.glob(f".{layout.pointer.name}.*.tmp*"), *layout.versions.glob(".*.tmp*")]
    # A starting stream writes LIVE without the publisher's lock, so a young file may be in use.
    return [*found, *filter(_is_old, layout.root.glob(f".{layout.live.name}.*.tmp"))]


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _UNFINISHED_S
    except FileNotFoundError:
        return False  # its writer has just finished it


def retire_versions(store: Store, *, keep: int) -> list[int]:
    """`remove_old_versions` of a store besides the current and the pinned one, with segments and filters."""
    pointer = store.pointer()
    removed = remove_old_versions(store.layout, keep=keep, needed=(pointer.current, pointer.pinned))
    if removed:
        remove_unreferenced(store)
    return removed


def remove_foreign_versions(store: Store) -> None:
    """Remove the versions of another store that this one has replaced. Open snapshots of them stay usable."""
    for number in store.version_numbers():
        try:
            foreign = manifest_of(store.layout, number).store != store.pointer().store
        except UnavailableError:
            continue
        if foreign:
            store.layout.remove_version(number)


def remove_unreferenced(store: Store) -> int:
    """Remove segments and filters that no manifest names, and leases of removed versions; returns their number.

    Removes nothing while a manifest is damaged, as its segments are not known.
    """
    layout = store.layout
    manifests = store.versions()
    if len(manifests) < len(store.version_numbers()):
        return 0
    segments = {segment.id for manifest in manifests for segment in manifest.segments}
    filters = {manifest.filter.file for manifest in manifests if manifest.filter}
    numbers = {manifest.version for manifest in manifests}
    removed = 0
    for path in layout.segments.iterdir():
        if path.name not in segments:
            remove_tree(path)
            removed += 1
    for path in layout.filters.iterdir():
        if path.name not in filters:
            path.unlink()
            removed += 1
    for path in [*layout.versions.glob("*.lease"), *layout.versions.glob("*.bad")]:
        if int(path.stem) not in numbers:
            path.unlink()
    return removed
