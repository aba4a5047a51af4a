"""Integrity of a version's files: sizes are checked at every open, checksums when all bytes are read."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from forecache.base.steps import begin_work
from forecache.kit.versioned.verify import ReadPace, check_size, verify_file
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.manifest import Manifest, SegmentInfo, ShardInfo

VERIFY_EVERY_S = 24 * 3600.0  # greatest age of a segment's last verification when a publish builds on it


def segment_files(layout: StoreLayout, segment: SegmentInfo) -> Iterator[tuple[Path, str, ShardInfo]]:
    """Every file of a segment: (local path, name below the store's root, expected size and checksum)."""
    for info in (*segment.shards, *([segment.hashes] if segment.hashes else [])):
        yield layout.segment(segment.id) / info.file, f"segments/{segment.id}/{info.file}", info


def version_files(layout: StoreLayout, manifest: Manifest) -> Iterator[tuple[Path, str, ShardInfo]]:
    """Every file of a version besides its manifest; see `segment_files`."""
    for segment in manifest.segments:
        yield from segment_files(layout, segment)
    if manifest.filter is not None:
        yield layout.filter(manifest.filter.file), f"filters/{manifest.filter.file}", manifest.filter


def check_sizes(layout: StoreLayout, manifest: Manifest, *, has_all: bool = True) -> None:
    """Raise DamagedError if a file is missing or has another size: reading a mapping past its file's end kills.

    Without `has_all`, segments may be missing as a whole, and the filter.
    """
    for path, _, info in version_files(layout, manifest):
        if has_all or (path if path.parent == layout.filters else path.parent).exists():
            check_size(path, info)


def verify_segment(layout: StoreLayout, segment: SegmentInfo, *, pace: ReadPace | None = None) -> int:
    """`verify_file` of every file of a segment; return the bytes read."""
    return sum(verify_file(path, info, pace=pace) for path, _, info in segment_files(layout, segment))


def verify_filter(layout: StoreLayout, manifest: Manifest, *, pace: ReadPace | None = None) -> int:
    """`verify_file` of a version's filter, if it has one; return the bytes read."""
    info = manifest.filter
    return 0 if info is None else verify_file(layout.filter(info.file), info, pace=pace)


def verify_version(
    layout: StoreLayout, manifest: Manifest, *, max_age_s: float | None = None, has_all: bool = True
) -> None:
    """Verify a version's files, but only the sizes of segments that were verified within `max_age_s`.

    Without `has_all`, segments may be missing as a whole.
    """
    check_sizes(layout, manifest, has_all=has_all)
    for segment in manifest.segments:
        # The modification time of the folder has no other use, as its files never change.
        folder = layout.segment(segment.id)
        if not has_all and not folder.exists():
            continue
        if max_age_s is None or time.time() - folder.stat().st_mtime > max_age_s:
            begin_work(f"verifying {folder}")
            verify_segment(layout, segment)
            with suppress(OSError):  # the store is read-only for this process
                os.utime(folder)
    verify_filter(layout, manifest)
