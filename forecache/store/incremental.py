"""An incremental publish: a small segment over the current version with the keys whose entry differs, and tombstones.

Two ways lead to what differs. For the night that is published already, the change data feed between the published
Delta version and the current one says which keys to look at. A new night is a new partition, so every row of it is
in the feed: it is read from the partition, in parallel, and compared shard by shard. Either way the content decides:
a row that was written again with equal values does not travel.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.store import hashing
from forecache.store.build import num_shards, write_shard
from forecache.store.candidate import Candidate, Publication, require_equal
from forecache.store.feed import Feed, FeedUnavailable, read_feed
from forecache.store.filters import write_filter, write_hashes
from forecache.store.full import EncodedNight
from forecache.store.gates import bin_counts, check_gates, population_stability_index, statistics
from forecache.store.layout import shard_file
from forecache.store.manifest import Manifest, Provenance, SegmentInfo, ShardInfo
from forecache.store.pool import Pool
from forecache.store.snapshot import Snapshot
from forecache.store.steps import step
from forecache.store.work import key_hashes, present, read_rows

_PREFETCH_KEYS = 20_000
"""From here on, keys are on so many pages that reading the files whole costs less than reading page by page."""

_SMALL_STORE_ROWS = 1000
"""Below this a share of the base says little: a delta of so many rows is always small."""


def most_delta_rows(publication: Publication) -> int:
    """Entries that a new delta may have before a new base is better."""
    current = publication.current
    assert current is not None
    base, *deltas = current.segments
    share = int(publication.pipeline.publish.compact_share * base.entries)
    return max(share, _SMALL_STORE_ROWS) - sum(segment.entries for segment in deltas)


@dataclass(frozen=True)
class Changes:
    """What a delta segment holds, one place a key: its entry (empty: a tombstone) and what is published for it."""

    keys: list[bytes]
    entries: list[bytes]
    old: list[bytes | None]

    @property
    def removed(self) -> int:
        return self.entries.count(b"")

    @property
    def added(self) -> int:
        return self.old.count(None)


def content_changes(before: Snapshot, final: dict[bytes, bytes]) -> Changes:
    """Those of the final entries that differ from what a snapshot reads, in the order of their keys."""
    if len(final) > _PREFETCH_KEYS:
        before.prefetch()
    keys = sorted(final)
    entries = [final[key] for key in keys]
    old = list(map(before.get_entry, keys))
    places = [place for place, (new, was) in enumerate(zip(entries, old, strict=True)) if new != (was or b"")]
    if len(places) == len(keys):
        return Changes(keys, entries, old)
    return Changes(
        [keys[place] for place in places], [entries[place] for place in places], [old[place] for place in places]
    )


def from_feed(publication: Publication) -> tuple[Candidate | None, str]:
    """A candidate from the change data feed, or None and why there has to be a full publish."""
    current = publication.current
    assert current is not None
    limit = most_delta_rows(publication)
    try:
        feed = read_feed(publication, limit=2 * limit)
    except FeedUnavailable as reason:
        return None, str(reason)
    expected_rows = current.rows + feed.come.rows - feed.gone.rows
    if publication.source.num_rows is not None and expected_rows != publication.source.num_rows:
        return None, (
            f"the change data feed leads to {expected_rows:,} rows where the table has {publication.source.num_rows:,}"
        )
    with publication.store.snapshot(current.version) as before:
        changes = content_changes(before, feed.final)
    if len(changes.keys) > limit:
        return None, f"compaction: {len(changes.keys):,} changed keys over a base of {current.segments[0].entries:,}"
    nulls, histograms, psi = _moved_statistics(current, feed)
    check_gates(publication.pipeline.publish, current=current, rows=expected_rows, nulls=nulls, psi=psi)
    step("encoded")
    carried = current.carried + feed.come.carried - feed.gone.carried
    return (
        _delta_candidate(
            publication,
            changes=changes,
            rows=expected_rows,
            content_sum=hashing.add(hashing.from_hex(current.content_hash), feed.sum),
            provenance=current.provenance,
            provenances={**current.provenances, **feed.come.provenances} if carried else {},
            carried=carried,
            statistics={"nulls": nulls, "histograms": histograms},
            details={"changes_from": "change data feed", "feed_rows": feed.rows},
        ),
        "",
    )


def _moved_statistics(current: Manifest, feed: Feed) -> tuple[dict[str, int], dict[str, Any], dict[str, float]]:
    """(null counts, histograms, PSI against the current version) after the feed's deletes and inserts."""
    nulls = {
        name: count + feed.come.nulls[name] - feed.gone.nulls[name]
        for name, count in current.statistics["nulls"].items()
    }
    histograms, psi = {}, {}
    for name, histogram in current.statistics["histograms"].items():
        edges, before = histogram["edges"], np.asarray(histogram["counts"])
        moved = bin_counts(edges, feed.come.sample(name)) - bin_counts(edges, feed.gone.sample(name))
        after = np.maximum(before + moved, 0.0)
        histograms[name] = {"edges": edges, "counts": after.tolist()}
        psi[name] = population_stability_index(before, after)
    return nulls, histograms, psi


def from_partition(publication: Publication, night: EncodedNight, pool: Pool) -> tuple[Candidate | None, str]:
    """A candidate from a new night's encoded rows, or None and why there has to be a full publish."""
    current, store = publication.current, publication.store
    assert current is not None
    base = current.segments[0]
    if night.shards != len(base.shards):
        return None, f"the rows need {night.shards} shards where the base has {len(base.shards)}"
    limit = most_delta_rows(publication)
    publication.progress("Comparing with the published version", 0.4)
    found = pool.map(
        "diff",
        [
            {
                "root": str(store.layout.root),
                "version": current.version,
                "folders": night.folders,
                "shard": shard,
                "target": str(publication.staging),
                "limit": limit,
            }
            for shard in range(night.shards)
        ],
        done=lambda count: publication.progress("Comparing", 0.4 + 0.3 * count / night.shards),
    )
    differing = sum(item["changed"] + item["removed"] for item in found)
    if differing > limit:
        return None, f"compaction: {differing:,} changed keys over a base of {base.entries:,}"
    final: dict[bytes, bytes] = {}
    for item in found:
        if item["path"]:
            rows = read_rows(Path(item["path"]))
            final.update(zip(rows["key"].to_pylist(), rows["entry"].to_pylist(), strict=True))
    with store.snapshot(current.version) as before:
        changes = content_changes(before, final)
    return (
        _delta_candidate(
            publication,
            changes=changes,
            rows=night.rows,
            content_sum=night.content_sum,
            provenance=publication.encoding.provenance,
            provenances=night.provenances,
            carried=night.carried,
            statistics=statistics(night.rows, night.nulls, night.samples),
            details={"changes_from": "partition"},
        ),
        "",
    )


def _delta_candidate(
    publication: Publication,
    *,
    changes: Changes,
    rows: int,
    content_sum: int,
    provenance: Provenance,
    provenances: dict[str, Provenance],
    carried: int,
    statistics: dict[str, Any],
    details: dict[str, Any],
) -> Candidate:
    """Build the segment of the changes, if there are any, and verify the version.

    Args:
        rows, content_sum: What the source has.
    """
    current = publication.current
    assert current is not None
    segments, filter_file = current.segments, current.filter
    if changes.keys:
        segments = (*segments, _build_delta(publication, changes))
        filter_file = write_filter(publication.store.layout, publication.version, list(segments[1:]))
    else:
        step("built")
    step("segments moved")
    manifest = publication.manifest(
        kind="incremental",
        segments=segments,
        rows=rows,
        content_sum=content_sum,
        provenance=provenance,
        provenances=provenances,
        carried=carried,
        statistics=statistics,
        filter_file=filter_file,
    )
    draft = publication.draft(manifest)
    with Snapshot(publication.store.layout, manifest) as after:
        new = list(map(after.get_entry, changes.keys))
    read_rows_now = current.rows + changes.old.count(None) - new.count(None)
    read_sum = hashing.add(hashing.from_hex(current.content_hash), _sum(changes.keys, new))
    require_equal(
        publication,
        rows=(rows, read_rows_now),
        sums=(content_sum, hashing.subtract(read_sum, _sum(changes.keys, changes.old))),
    )
    removed = changes.removed
    return Candidate(
        manifest,
        draft,
        {"changed": len(changes.keys) - removed, "added": changes.added, "removed": removed, **details},
    )


def _build_delta(publication: Publication, changes: Changes) -> SegmentInfo:
    segment_id = publication.segment_id("delta")
    folder = publication.staging / segment_id
    folder.mkdir()
    keys, entries = pa.array(changes.keys, pa.binary()), pa.array(changes.entries, pa.binary())
    hashes = key_hashes(changes.keys)
    shards = num_shards(len(keys))
    shard_of = hashes & np.uint64(shards - 1)
    built: list[ShardInfo] = []
    for shard in range(shards):
        places = pa.array(np.flatnonzero(shard_of == shard))
        built.append(write_shard(folder / shard_file(shard), keys.take(places), entries.take(places)))
    segment = SegmentInfo(segment_id, "delta", len(keys), changes.removed, tuple(built), write_hashes(folder, hashes))
    step("built")
    publication.move_segment(folder, segment)
    return segment


def _sum(keys: list[bytes], entries: list[bytes | None]) -> int:
    return hashing.content_sum(present(keys, entries))
