"""Integrity of a version's files: sizes are checked at every open, checksums when all bytes are read."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from forecache.kit.versioned.verify import ReadPace, check_size, verify_file
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.manifest import Manifest, SegmentInfo, ShardInfo

VERIFY_EVERY_S = 24 * 3600.0
"""Greatest age of a segment's last verification when a publish builds on it."""


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


def check_sizes(layout: StoreLayout, manifest: Manifest) -> None:
    """Refuse a version of which a file is missing or has another size: reading a mapping past its file's end kills.

    Raises DamagedError, which names the file.
    """
    for path, _, info in version_files(layout, manifest):
        check_size(path, info)


def verify_segment(layout: StoreLayout, segment: SegmentInfo, *, pace: ReadPace | None = None) -> int:
    """`verify_file` of every file of a segment; return the bytes read."""
    return sum(verify_file(path, info, pace=pace) for path, _, info in segment_files(layout, segment))


def verify_filter(layout: StoreLayout, manifest: Manifest, *, pace: ReadPace | None = None) -> int:
    """`verify_file` of a version's filter, if it has one; return the bytes read."""
    info = manifest.filter
    return 0 if info is None else verify_file(layout.filter(info.file), info, pace=pace)


def verify_version(layout: StoreLayout, manifest: Manifest) -> int:
    """Verify every file of a version and record the time; return the bytes read. The DamagedError names the first bad
    file.
    """
    read_bytes = 0
    for segment in manifest.segments:
        read_bytes += verify_segment(layout, segment)
        _record_verified(layout, segment)
    return read_bytes + verify_filter(layout, manifest)


def verify_overdue(layout: StoreLayout, manifest: Manifest) -> None:
    """Check the sizes of a version's files, and the checksums of segments that were not verified for a day."""
    check_sizes(layout, manifest)
    for segment in manifest.segments:
        if time.time() - layout.segment(segment.id).stat().st_mtime > VERIFY_EVERY_S:
            verify_segment(layout, segment)
            _record_verified(layout, segment)
    verify_filter(layout, manifest)


def _record_verified(layout: StoreLayout, segment: SegmentInfo) -> None:
    # As the modification time of the folder, which has no other use: its files never change.
    try:
        os.utime(layout.segment(segment.id))
    except OSError:
        return  # the store is read-only for this process
