"""An incremental publish: a small segment over the current version with the keys whose entry differs, and tombstones.

Two ways lead to what differs. For the night that is published already, the change data feed between the published
Delta version and the current one says which keys to look at. A new night is a new partition, so every row of it is
in the feed: it is read from the partition, in parallel, and compared shard by shard. Either way the content decides:
a row that was written again with equal values does not travel.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from forecache.errors import CheckError
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
from forecache.store.work import key_hashes, read_rows, shards_of

_SMALL_STORE_ROWS = 1000
"""Below this a share of the base says little: a delta of so many rows is always small."""


def most_delta_rows(publication: Publication) -> int:
    """Entries that a new delta may have before a new base is better."""
    current = publication.current
    assert current is not None
    base, *deltas = current.segments
    share = int(publication.pipeline.publish.compact_share * base.entries)
    return max(share, _SMALL_STORE_ROWS) - sum(segment.entries for segment in deltas)


def from_feed(publication: Publication) -> tuple[Candidate | None, str]:
    """A candidate from the change data feed, or None and why there has to be a full publish."""
    current = publication.current
    assert current is not None
    limit = most_delta_rows(publication)
    try:
        feed = read_feed(publication, limit=2 * limit)
    except FeedUnavailable as reason:
        return None, str(reason)
    expected_rows = current.rows + feed.inserted - feed.deleted
    if publication.source.num_rows is not None and expected_rows != publication.source.num_rows:
        return None, (
            f"the change data feed leads to {expected_rows:,} rows where the table has {publication.source.num_rows:,}"
        )
    with publication.store.snapshot(current.version) as before:
        old = dict(zip(feed.keys, map(before.get_entry, feed.keys), strict=True))
    changes = {key: entry for key, entry in feed.final.items() if (old[key] or b"") != entry}
    if len(changes) > limit:
        return None, f"compaction: {len(changes):,} changed keys over a base of {current.segments[0].entries:,}"
    expected_sum = hashing.add(hashing.from_hex(current.content_hash), feed.sum)
    touched = {key: old[key] for key in changes}
    nulls, histograms = _moved_statistics(current, touched, changes)
    check_gates(
        publication.pipeline.publish,
        current=current,
        rows=expected_rows,
        nulls=nulls,
        psi={
            name: population_stability_index(
                np.asarray(current.statistics["histograms"][name]["counts"]), np.asarray(histogram["counts"])
            )
            for name, histogram in histograms.items()
        },
    )
    step("encoded")
    carried = current.carried + _count_carried(changes.values()) - _count_carried(touched.values())
    return (
        _delta_candidate(
            publication,
            changes=changes,
            old=touched,
            rows=expected_rows,
            content_sum=expected_sum,
            provenance=current.provenance,
            provenances={**current.provenances, **feed.provenances} if carried else {},
            carried=carried,
            statistics={"nulls": nulls, "histograms": histograms},
            details={"changes_from": "change data feed", "feed_rows": feed.rows},
        ),
        "",
    )


def _count_carried(entries: Iterable[bytes | None]) -> int:
    return sum(1 for entry in entries if entry and b"\n" in entry)


def _moved_statistics(
    current: Manifest, old: dict[bytes, bytes | None], new: dict[bytes, bytes]
) -> tuple[dict[str, int], dict[str, Any]]:
    """Null counts and histograms after taking out the old values of the changed keys and putting in the new ones."""
    nulls = dict(current.statistics["nulls"])
    histograms = {name: dict(histogram) for name, histogram in current.statistics["histograms"].items()}
    for sign, entries in ((-1, old.values()), (1, new.values())):
        rows = [orjson.loads(entry.partition(b"\n")[0]) for entry in entries if entry]
        for name in nulls:
            values = [row[name] for row in rows]
            nulls[name] += sign * values.count(None)
            if name in histograms:
                known = np.array([value for value in values if value is not None], float)
                counts = np.asarray(histograms[name]["counts"]) + sign * bin_counts(histograms[name]["edges"], known)
                histograms[name]["counts"] = np.maximum(counts, 0.0).tolist()
    return nulls, histograms


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
    changes: dict[bytes, bytes] = {}
    for item in found:
        if item["path"]:
            rows = read_rows(Path(item["path"]))
            changes.update(zip(rows["key"].to_pylist(), rows["entry"].to_pylist(), strict=True))
    with store.snapshot(current.version) as before:
        old = {key: before.get_entry(key) for key in changes}
    return (
        _delta_candidate(
            publication,
            changes=changes,
            old=old,
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
    changes: dict[bytes, bytes],
    old: dict[bytes, bytes | None],
    rows: int,
    content_sum: int,
    provenance: Provenance,
    provenances: dict[str, Provenance],
    carried: int,
    statistics: dict[str, Any],
    details: dict[str, Any],
) -> Candidate:
    """Build the segment of the changes (empty entry: tombstone), if there are any, and verify the version.

    Args:
        old: What the current version reads for the keys of `changes`.
        rows, content_sum: What the source has.
    """
    current = publication.current
    assert current is not None
    segments, filter_file = current.segments, current.filter
    if changes:
        segment = _build_delta(publication, changes)
        segments = (*segments, segment)
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
        new = {key: after.get_entry(key) for key in changes}
    _require_tombstones(publication, changes, new)
    require_equal(
        publication,
        rows=(rows, current.rows - _present(old) + _present(new)),
        sums=(
            content_sum,
            hashing.subtract(hashing.add(hashing.from_hex(current.content_hash), _sum(new)), _sum(old)),
        ),
    )
    removed = sum(1 for entry in changes.values() if not entry)
    return Candidate(
        manifest,
        draft,
        {
            "changed": len(changes) - removed,
            "added": sum(1 for key, entry in changes.items() if entry and old[key] is None),
            "removed": removed,
            **details,
        },
    )


def _build_delta(publication: Publication, changes: dict[bytes, bytes]) -> SegmentInfo:
    segment_id = publication.segment_id("delta")
    folder = publication.staging / segment_id
    folder.mkdir()
    key_list = list(changes)
    keys, entries = pa.array(key_list, pa.binary()), pa.array(list(changes.values()), pa.binary())
    shards = num_shards(len(changes))
    shard_of = shards_of(key_list, shards)
    built: list[ShardInfo] = []
    for shard in range(shards):
        places = pa.array(np.flatnonzero(shard_of == shard))
        built.append(write_shard(folder / shard_file(shard), keys.take(places), entries.take(places)))
    hashes = write_hashes(folder, key_hashes(key_list))
    tombstones = sum(1 for entry in changes.values() if not entry)
    segment = SegmentInfo(segment_id, "delta", len(changes), tombstones, tuple(built), hashes)
    step("built")
    publication.move_segment(folder, segment)
    return segment


def _present(entries: dict[bytes, bytes | None]) -> int:
    return sum(1 for entry in entries.values() if entry is not None)


def _sum(entries: dict[bytes, bytes | None]) -> int:
    return hashing.content_sum((key, entry) for key, entry in entries.items() if entry is not None)


def _require_tombstones(publication: Publication, changes: dict[bytes, bytes], new: dict[bytes, bytes | None]) -> None:
    for key, entry in changes.items():
        if (entry or None) != new[key]:
            raise CheckError(
                f"Version {publication.version} reads {new[key]!r} for the key {key!r} where {entry!r} was written.",
                remedy="Nothing was published. Publish again, with --full if it repeats.",
            )


__all__ = ["Feed", "from_feed", "from_partition", "most_delta_rows"]
