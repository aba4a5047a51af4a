"""A full publish: the whole night encoded, sharded, built into a new base and read back, in parallel."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from forecache.errors import CheckError
from forecache.store import content_hash as hashing
from forecache.store.encoding.jobs import encoding_to_json
from forecache.store.encoding.pool import Pool
from forecache.store.encoding.prediction_source import share_out
from forecache.store.manifest import Provenance, SegmentInfo, ShardInfo
from forecache.store.publishing.gates import check_gates, drift, statistics
from forecache.store.publishing.publication import Candidate, Publication, require_equal
from forecache.store.publishing.steps import step
from forecache.store.segment.writer import num_shards, suits

_SAMPLE_ROWS = 200_000


@dataclass(frozen=True)
class EncodedNight:
    """What the encoding of a night found, and where its rows wait, sharded.

    Attributes:
        content_sum: Content hash of the source, computed before anything was sharded, sorted or written.
        samples: For each numeric field every n-th value, float64, without nulls.
    """

    folders: list[str]
    shards: int
    rows: int
    content_sum: int
    carried: int
    nulls: dict[str, int]
    samples: dict[str, np.ndarray]
    provenances: dict[str, Provenance]


def encode_night(publication: Publication, pool: Pool) -> EncodedNight:
    """Encode every row of the night into staging, one file a shard and job, and apply the publish gates."""
    source, encoding = publication.source, publication.encoding
    all_pieces = source.reader.pieces
    rows = sum(piece.rows for piece in all_pieces)
    shards = _shards(publication, rows)
    publication.progress(f"Encoding {rows:,} predictions of {source.source.as_of}", 0.0)
    jobs = [
        {
            "source": asdict(source.source),
            "storage_options": source.storage_options,
            "pieces": [asdict(piece) for piece in share],
            "encoding": encoding_to_json(encoding),
            "shards": shards,
            "sample_every": max(1, rows // _SAMPLE_ROWS),
            "folder": str(publication.staging / f"encoded-{number}"),
        }
        for number, share in enumerate(share_out(all_pieces, max(1, 2 * len(pool.workers))))
    ]
    found = pool.map("encode", jobs, done=lambda count: publication.progress("Encoding", 0.4 * count / len(jobs)))
    night = _gather(found, shards, rows)
    if source.num_rows is not None and night.rows != source.num_rows:
        raise CheckError(
            f"{night.rows:,} predictions were read where the Delta log counts {source.num_rows:,}.",
            remedy="Nothing was published. Check the prediction table's files.",
        )
    current = publication.current
    check_gates(
        publication.pipeline.publish,
        current=current,
        rows=night.rows,
        nulls=night.nulls,
        drifted={} if current is None else drift(current, night.samples),
    )
    step("encoded")
    return night


def _shards(publication: Publication, rows: int) -> int:
    """As many as suit the rows; the current base's where those are near, so that the two can be compared."""
    if publication.current is not None:
        base = len(publication.current.segments[0].shards)
        if suits(base, rows):
            return base
    return num_shards(rows)


def _gather(found: list[dict[str, Any]], shards: int, rows: int) -> EncodedNight:
    names = list(found[0]["nulls"])
    sampled = [name for name in names if _has_sample(found[0]["folder"], name)]
    return EncodedNight(
        folders=[item["folder"] for item in found],
        shards=shards,
        rows=sum(item["rows"] for item in found),
        content_sum=hashing.add(*(hashing.from_hex(item["sum"]) for item in found)),
        carried=sum(item["carried"] for item in found),
        nulls={name: sum(item["nulls"][name] for item in found) for name in names},
        samples={
            name: np.concatenate([np.load(f"{item['folder']}/sample-{name}.npy") for item in found]) for name in sampled
        },
        provenances={name: Provenance(**values) for item in found for name, values in item["provenances"].items()},
    )


def _has_sample(folder: str, name: str) -> bool:
    from pathlib import Path

    return Path(folder, f"sample-{name}.npy").exists()


def build_full(publication: Publication, night: EncodedNight, pool: Pool, *, reason: str) -> Candidate:
    """Build and verify a new base from an encoded night."""
    segment_id = publication.segment_id("base")
    folder = publication.staging / segment_id
    folder.mkdir()
    publication.progress(f"Building {night.shards} shards", 0.4)
    built = pool.map(
        "build",
        [{"folders": night.folders, "shard": shard, "target": str(folder)} for shard in range(night.shards)],
        done=lambda count: publication.progress("Building", 0.4 + 0.4 * count / night.shards),
    )
    step("built")
    segment = SegmentInfo(segment_id, "base", night.rows, 0, tuple(ShardInfo(**info) for info in built))
    publication.move_segment(folder, segment)
    step("segments moved")
    manifest = publication.manifest(
        kind="full",
        segments=(segment,),
        rows=night.rows,
        content_sum=night.content_sum,
        provenance=publication.encoding.provenance,
        provenances=night.provenances,
        carried=night.carried,
        statistics=statistics(night.rows, night.nulls, night.samples),
        filter_file=None,
    )
    draft = publication.draft(manifest)
    root = str(publication.store.layout.root)
    read = pool.map(
        "verify",
        [{"root": root, "manifest": str(draft), "shard": shard} for shard in range(night.shards)],
        done=lambda count: publication.progress("Verifying", 0.8 + 0.2 * count / night.shards),
    )
    require_equal(
        publication,
        rows=(night.rows, sum(item["rows"] for item in read)),
        sums=(night.content_sum, hashing.add(*(hashing.from_hex(item["sum"]) for item in read))),
    )
    return Candidate(manifest, draft, {"changed": night.rows, "removed": 0, "why_full": reason})
