"""Compaction: the base and the delta segments of a version merged into a new base, from their files.

Nothing is read from the lake or encoded again, so it costs a fraction of a full publish. It runs in one process with
the memory of one shard, and sleeps briefly after each block, so that a reader on the same core need not wait. The new
base is read back like any other, and must have the row count and content hash of the verified version.
"""

import sys
from dataclasses import replace
from pathlib import Path

from forecache.base.steps import publish_step
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.layout import remove_tree, shard_file
from forecache.serve.store.manifest import Manifest, SegmentInfo, ShardInfo
from forecache.serve.store.publishing.publication import PendingVersion, Publication, require_equal
from forecache.serve.store.publishing.read_back import read_back, row_blocks
from forecache.serve.store.read.snapshot import Snapshot, merge_rows
from forecache.serve.store.segment.filter import MAX_DELTAS
from forecache.serve.store.segment.writer import PAGE, write_sorted

SMALL_STORE_ROWS = 1000
"""So many changed rows are always few, whatever the size of the base."""


def most_changed_rows(publication: Publication) -> int:
    """Most rows that deltas may hold over the current base, and that may differ from the published ones."""
    assert publication.current is not None
    share = publication.pipeline.publishing.compact_share * publication.current.segments[0].entries
    return max(int(share), SMALL_STORE_ROWS)


def compaction_reason(publication: Publication, manifest: Manifest) -> str:
    """The reason to compact a pending version into one base; "" if its deltas are small and few."""
    base, *deltas = manifest.segments
    entries = sum(segment.entries for segment in deltas)
    if deltas and len(manifest.segments) > min(publication.pipeline.publishing.max_segments, MAX_DELTAS):
        return f"{len(manifest.segments)} segments"
    if entries > most_changed_rows(publication):
        return f"{entries:,} changed keys over a base of {base.entries:,}"
    return ""


def compact(publication: Publication, pending: PendingVersion, reason: str) -> PendingVersion:
    """Merge a pending version into one base with the same content; removes files that only the given version had."""
    layout, version = publication.store.layout, pending.manifest
    publication.progress(f"Merging {len(version.segments)} segments into a new base: {reason}", 0.3)
    segment_id = publication.segment_id("base")
    folder = publication.staging / segment_id
    folder.mkdir()
    with Snapshot(layout, version) as before:
        shards = [_merge_shard(before, shard, folder) for shard in range(len(version.segments[0].shards))]
    publish_step("merged")
    segment = SegmentInfo(segment_id, "base", sum(shard.entries for shard in shards), 0, tuple(shards))
    publication.move_segment(folder, segment)
    publish_step("merged base moved")
    manifest = replace(version, kind="compacted", segments=(segment,), tombstones=0, filter=None)
    publication.progress("Verifying the new base", 0.7)
    with Snapshot(layout, manifest) as after:
        read = [read_back(after, shard, paced=True) for shard in range(len(shards))]
    require_equal(
        publication,
        rows=(version.rows, sum(rows for rows, _ in read)),
        sums=(hashing.from_hex(version.content_hash), hashing.add(*(total for _, total in read))),
    )
    publish_step("merged base verified")
    _remove_own_files(publication, version)
    return PendingVersion(manifest, {**pending.details, "why_compacted": reason})


def _merge_shard(version: Snapshot, shard: int, folder: Path) -> ShardInfo:
    """Write one shard of the base merged with the deltas."""
    overlay = version.overlay(shard)
    newer_bytes = sum(map(sys.getsizeof, overlay.values())) + 3 * PAGE * len(overlay)
    rows = merge_rows(version.base_items(shard), overlay)
    return write_sorted(
        folder / shard_file(shard),
        (([key for key, _ in block], [entry for _, entry in block]) for block in row_blocks(rows, paced=True)),
        most_bytes=2 * version.manifest.segments[0].shards[shard].size_bytes + newer_bytes,
        indexed=True,
    )


def _remove_own_files(publication: Publication, version: Manifest) -> None:
    """Remove the delta and the filter that only the pending version had: no version will name them."""
    assert publication.current is not None
    layout, current = publication.store.layout, publication.current
    for segment in version.segments:
        if segment not in current.segments:
            remove_tree(layout.segment(segment.id))
    if version.filter is not None and version.filter != current.filter:
        layout.filter(version.filter.file).unlink()
