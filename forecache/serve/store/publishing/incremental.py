"""An incremental publish: a small segment over the current version with the keys whose entry differs, and tombstones.

Changed keys are found in two ways. For the as-of date that is published already, the change data feed between the
published Delta version and the current one has them. An as-of date that was rewritten is in the feed with every row, so
it is compared with the published one by the hashes of its rows. In both ways the content decides: a row that was
written again with equal values is not published again.

Compaction merges the base and the deltas of a version into a new base. Nothing is read from the lake or encoded again,
so it costs a fraction of a full publish. It runs in one process with the memory of one shard, and sleeps briefly after
each block, so that a reader on the same core need not wait.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.base.statistics import bin_counts, psi
from forecache.base.steps import publish_step
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.layout import remove_tree, shard_file
from forecache.serve.store.manifest import Manifest, SegmentInfo, ShardInfo
from forecache.serve.store.publishing.overlay import make_key_set
from forecache.serve.store.publishing.publication import (
    PendingVersion,
    Publication,
    check_gates,
    present_entries,
    read_back,
    require_equal,
    row_blocks,
)
from forecache.serve.store.publishing.row_changes import (
    ChangesUnavailable,
    KeyChanges,
    RowChanges,
    find_key_changes,
    find_row_changes,
)
from forecache.serve.store.publishing.stream_changes import add_stream_changes, find_published, find_uncovered_keys
from forecache.serve.store.read.snapshot import Snapshot, merge_rows
from forecache.serve.store.segment.index import MAX_DELTAS, key_hashes, write_filter, write_hashes
from forecache.serve.store.segment.writer import PAGE, num_shards, suits_num_shards, write_shard, write_sorted

SMALL_STORE_ROWS = 1000  # so many changed rows are always few, whatever the size of the base


def most_changed_rows(publication: Publication) -> int:
    """Most rows that deltas may hold over the current base, and that may differ from the published ones."""
    share = publication.pipeline.publishing.compact_share * publication.published.segments[0].entries
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
    folder = publication.create_segment("base")
    publication.store.fetch_segments(version)
    with Snapshot(layout, version) as before:
        shards = [_merge_shard(before, shard, folder) for shard in range(len(version.segments[0].shards))]
    publish_step("merged")
    segment = SegmentInfo(folder.name, "base", sum(shard.entries for shard in shards), 0, tuple(shards))
    publication.move_segment(folder)
    publish_step("merged base moved")
    manifest = replace(version, kind="compacted", segments=(segment,), tombstones=0, filter=None)
    publication.progress("Verifying the new base", 0.7)
    with Snapshot(layout, manifest) as after:
        read = [read_back(after, shard, paced=True) for shard in range(len(shards))]
    require_equal(publication, (version.rows, hashing.from_hex(version.content_hash)), read)
    publish_step("merged base verified")
    # No version will name the delta and the filter that only the pending one had.
    for old in version.segments:
        if old not in publication.published.segments:
            remove_tree(layout.segment(old.id))
    if version.filter is not None and version.filter != publication.published.filter:
        layout.filter(version.filter.file).unlink()
    return PendingVersion(manifest, {**pending.details, "why_compacted": reason})


def _merge_shard(version: Snapshot, shard: int, folder: Path) -> ShardInfo:
    overlay = version.overlay(shard)
    newer_bytes = sum(map(sys.getsizeof, overlay.values())) + 3 * PAGE * len(overlay)
    rows = merge_rows(version.base_items(shard), overlay)
    return write_sorted(
        folder / shard_file(shard),
        (([key for key, _ in block], [entry for _, entry in block]) for block in row_blocks(rows, paced=True)),
        most_bytes=2 * version.manifest.segments[0].shards[shard].size_bytes + newer_bytes,
        indexed=True,
    )


_BLOCK_KEYS = 1 << 13  # keys that are read back at a time, so that their entries need little memory


def build_incremental(publication: Publication) -> PendingVersion:
    """Build a verified version with a small segment; raises ChangesUnavailable with the reason for a full publish."""
    current, limit, overlay = publication.published, most_changed_rows(publication), publication.overlay
    base = current.segments[0]

    def require_few(keys: int, what: str) -> None:
        if keys > limit:
            raise ChangesUnavailable(f"compaction: {keys:,} {what} keys over a base of {base.entries:,}")

    require_few(0 if overlay is None else overlay.num_above(current.cut), "streamed")
    uncovered = find_uncovered_keys(publication)
    row_changes = find_row_changes(publication, limit=limit)
    added, removed = row_changes.added.encoder, row_changes.removed.encoder
    in_batch = current.statistics["rows"] + added.rows - removed.rows
    if publication.source.num_rows not in (None, in_batch):
        raise ChangesUnavailable(
            f"the {row_changes.origin} leads to {in_batch:,} rows where the table has {publication.source.num_rows:,}"
        )
    changes = find_key_changes(row_changes)
    require_few(len(changes.keys), "changed")
    if _has_duplicate_keys(publication, row_changes, changes, uncovered):
        raise ChangesUnavailable("keys are there more than once")
    content_sum, carried, provenances = row_changes.sum, added.carried - removed.carried, added.provenances
    if uncovered is not None:
        changes, carried, of_stream = add_stream_changes(publication, changes, uncovered, added.encoding)
        content_sum, provenances = changes.sum, {**provenances, **of_stream}
    rows = current.rows + changes.num_added - changes.num_removed
    shards, values = len(base.shards), publication.values_of(rows)
    if not suits_num_shards(shards, rows, values):
        raise ChangesUnavailable(f"the base has {shards} shards where {num_shards(rows, values)} suit {rows:,} rows")
    require_few(len(changes.keys), "changed")
    carried += current.carried
    of_batch = carried - publication.num_streamed
    if 2 * of_batch > rows:
        # The version would name a model that made few of its rows.
        raise ChangesUnavailable(f"another run made {of_batch:,} of {rows:,} rows")
    nulls, histograms, drifted = _updated_statistics(current, row_changes)
    drifted = {} if publication.has_new_model else drifted
    check_gates(publication.pipeline.publishing, current=current, rows=in_batch, nulls=nulls, drifted=drifted)
    publish_step("encoded")
    manifest = _build_version(
        publication,
        changes,
        rows=rows,
        content_sum=hashing.add(hashing.from_hex(current.content_hash), content_sum),
        provenance=added.encoding.provenance,
        provenances={**current.provenances, **provenances} if carried else {},
        carried=carried,
        statistics={"rows": in_batch, "nulls": nulls, "histograms": histograms},
    )
    details = {
        "changed": len(changes.keys) - changes.num_removed,
        "added": changes.num_added,
        "removed": changes.num_removed,
        "changes_from": row_changes.origin,
        "compared_rows": row_changes.rows,
    }
    return PendingVersion(manifest, details)


def _has_duplicate_keys(
    publication: Publication, rows: RowChanges, changes: KeyChanges, uncovered: pa.Array | None
) -> bool:
    """Return whether the batch has a key more than once, by the changes of its rows and of its keys."""
    if changes.num_added - changes.num_removed != rows.added.encoder.rows - rows.removed.encoder.rows:
        return True
    new = changes.keys.filter(pa.array(changes.new)).cast(pa.binary())
    if uncovered is not None:
        assert publication.overlay is not None
        # Keys that were published from the stream may be new in the batch.
        streamed = make_key_set(pa.concat_arrays([uncovered, publication.overlay.keys]))
        if rows.sum != changes.sum:
            return True
        new = new.filter(pa.array(~streamed.mask(new)))
    return any(find_published(publication, new.to_pylist()))


def _updated_statistics(
    current: Manifest, changes: RowChanges
) -> tuple[dict[str, int], dict[str, Any], dict[str, float]]:
    """(null counts, histograms, PSI against the current version) after the changes."""
    added, removed = changes.added.encoder, changes.removed.encoder
    before = current.statistics["nulls"]
    nulls = {name: count + added.nulls[name] - removed.nulls[name] for name, count in before.items()}
    histograms, drifted = {}, {}
    for name, histogram in current.statistics["histograms"].items():
        edges, before = histogram["edges"], np.asarray(histogram["counts"])
        moved = bin_counts(edges, added.sample(name)) - bin_counts(edges, removed.sample(name))
        after = np.maximum(before + moved, 0.0)
        histograms[name] = {"edges": edges, "counts": after.tolist()}
        drifted[name] = psi(before, after)
    return nulls, histograms, drifted


def _build_version(
    publication: Publication, changes: KeyChanges, *, rows: int, content_sum: int, **figures: Any
) -> Manifest:
    """Build the segment of the changes, if there are any, and verify the version by the source's rows and sum."""
    current = publication.published
    segments, filter_file = current.segments, current.filter
    if len(changes.keys):
        segments = (*segments, _build_delta(publication, changes))
        filter_file = write_filter(publication.store.layout, publication.version, list(segments[1:]))
    else:
        publish_step("built")
    publish_step("segments moved")
    manifest = publication.manifest(
        kind="incremental", segments=segments, rows=rows, content_sum=content_sum, filter_file=filter_file, **figures
    )
    with publication.store.open_version(manifest) as after:
        found, read_sum = _read_back(after, changes)
    unchanged = current.rows + changes.num_added - len(changes.keys), hashing.from_hex(current.content_hash)
    require_equal(publication, (rows, content_sum), [unchanged, (found, hashing.subtract(read_sum, changes.old_sum))])
    return manifest


def _build_delta(publication: Publication, changes: KeyChanges) -> SegmentInfo:
    folder, hashes = publication.create_segment("delta"), key_hashes(changes.key_list)
    shards = num_shards(len(hashes), publication.values_of(len(hashes)))
    shard_of = hashes & np.uint64(shards - 1)
    built: list[ShardInfo] = []
    for shard in range(shards):
        rows = [changes.keys, changes.entries]
        if shards > 1:
            here = pa.array(np.flatnonzero(shard_of == shard))
            rows = [column.take(here) for column in rows]
        built.append(write_shard(folder / shard_file(shard), *(column.cast(pa.binary()) for column in rows)))
    segment = SegmentInfo(
        folder.name, "delta", len(hashes), changes.num_removed, tuple(built), write_hashes(folder, hashes)
    )
    publish_step("built")
    publication.move_segment(folder)
    return segment


def _read_back(snapshot: Snapshot, changes: KeyChanges) -> tuple[int, int]:
    """(keys found, content sum) of the changed keys as a reader reads them.

    Key by key, as batch reads search the base first and nearly all of these keys are in deltas. Entries that are equal
    to the encoded ones have the same hashes; only others have to be hashed.
    """
    found = total = 0
    for start in range(0, len(changes.keys), _BLOCK_KEYS):
        block = slice(start, start + _BLOCK_KEYS)
        keys, expected = changes.key_list[block], changes.entries[block]
        read = list(map(snapshot.get_entry, keys))
        found += len(keys) - read.count(None)
        if pa.array(read, expected.type).fill_null(b"").equals(expected):
            total = hashing.add(total, hashing.hash_sum(changes.hashes[block]))
        else:
            total = hashing.add(total, hashing.content_sum(present_entries(keys, read)))
    return found, total
