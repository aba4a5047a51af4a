"""A full publish: all rows of an as-of date are encoded, sharded, built into a new base and read back, in parallel."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from forecache.base.errors import CheckError
from forecache.base.steps import publish_step
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.prediction_source import split_pieces
from forecache.serve.store.manifest import SegmentInfo
from forecache.serve.store.publishing.full_jobs import EncodedRows, ShardFiles, build_shard, encode_pieces, verify_shard
from forecache.serve.store.publishing.gates import check_gates, measure_drift, publish_statistics
from forecache.serve.store.publishing.publication import PendingVersion, Publication, require_equal
from forecache.serve.store.publishing.streamed.key_set import make_key_set
from forecache.serve.store.publishing.worker_pool import ProcessPool
from forecache.serve.store.segment.writer import num_shards, suits_num_shards

_SAMPLE_ROWS = 200_000


def encode_night(publication: Publication, pool: ProcessPool) -> EncodedRows:
    """Encode all rows into staging, one file for each shard and job, and apply the publish gates."""
    source, encoding = publication.source, publication.encoding
    all_pieces = source.reader.pieces
    rows = sum(piece.rows for piece in all_pieces)
    shards = _choose_num_shards(publication, rows)
    publication.progress(f"Encoding {rows:,} rows of {source.source.as_of}", 0.0)
    hidden = _write_hidden_keys(publication)
    jobs = [
        {
            "source": source.source,
            "storage_options": source.storage_options,
            "pieces": share,
            "encoding": encoding,
            "shards": shards,
            "sample_every": max(1, rows // _SAMPLE_ROWS),
            "folder": publication.staging / f"encoded-{number}",
            "hidden": hidden,
        }
        for number, share in enumerate(split_pieces(all_pieces, max(1, 2 * len(pool.processes))))
    ]
    found = pool.map(encode_pieces, jobs, done=lambda count: publication.progress("Encoding", 0.4 * count / len(jobs)))
    night = _combine_shares(found)
    if source.num_rows is not None and night.in_batch != source.num_rows:
        raise CheckError(
            f"{night.in_batch:,} rows were read where the Delta log counts {source.num_rows:,}.",
            remedy="Nothing was published. Check the files of the table.",
        )
    current = publication.current
    check_gates(
        publication.pipeline.publishing,
        current=current,
        rows=night.in_batch,
        nulls=night.nulls,
        drifted={} if current is None else measure_drift(current, night.samples),
    )
    night = _add_streamed_rows(publication, night)
    publish_step("encoded")
    return night


def _write_hidden_keys(publication: Publication) -> Path | None:
    """Write a file of the keys whose streamed rows replace the batch's; None if there are none."""
    overlay = publication.overlay
    if overlay is None or not overlay.num_rows:
        return None
    path = publication.staging / "streamed.arrow"
    make_key_set(overlay.keys).write(path)
    return path


def _add_streamed_rows(publication: Publication, night: EncodedRows) -> EncodedRows:
    """Encode the stream's rows too, and add them to the figures of the batch's rows."""
    overlay, encoding = publication.overlay, publication.encoding
    if overlay is None or not overlay.num_rows:
        return night
    encoder, keys, entries = overlay.encode_rows(encoding, model_name=encoding.provenance.model_name)
    folder = publication.staging / "encoded-stream"
    folder.mkdir()
    sink = ShardFiles(folder, night.shards)
    sink.write(keys, entries)
    sink.close()
    return replace(
        night,
        folders=(*night.folders, folder),
        rows=night.rows + encoder.rows,
        content_sum=hashing.add(night.content_sum, encoder.sum),
        carried=night.carried + encoder.carried,
        provenances={**night.provenances, **encoder.provenances},
    )


def _choose_num_shards(publication: Publication, rows: int) -> int:
    """The number of shards for the rows; the current base's if it is close, so that the two can be compared."""
    values = publication.values_of(rows)
    if publication.current is not None:
        base = len(publication.current.segments[0].shards)
        if suits_num_shards(base, rows, values):
            return base
    return num_shards(rows, values)


def _combine_shares(shares: list[EncodedRows]) -> EncodedRows:
    first = shares[0]
    return EncodedRows(
        folders=tuple(folder for share in shares for folder in share.folders),
        shards=first.shards,
        rows=sum(share.rows for share in shares),
        content_sum=hashing.add(*(share.content_sum for share in shares)),
        carried=sum(share.carried for share in shares),
        in_batch=sum(share.in_batch for share in shares),
        nulls={name: sum(share.nulls[name] for share in shares) for name in first.nulls},
        samples={name: np.concatenate([share.samples[name] for share in shares]) for name in first.samples},
        provenances={name: item for share in shares for name, item in share.provenances.items()},
    )


def build_full(publication: Publication, night: EncodedRows, pool: ProcessPool, *, reason: str) -> PendingVersion:
    """Build and verify a new base from encoded rows."""
    segment_id = publication.segment_id("base")
    folder = publication.staging / segment_id
    folder.mkdir()
    shards = night.shards
    publication.progress(f"Building {shards} shards", 0.4)
    built = pool.map(
        build_shard,
        [{"folders": night.folders, "shard": shard, "target": folder} for shard in range(shards)],
        done=lambda count: publication.progress("Building", 0.4 + 0.4 * count / shards),
    )
    publish_step("built")
    segment = SegmentInfo(segment_id, "base", night.rows, 0, tuple(built))
    publication.move_segment(folder, segment)
    publish_step("segments moved")
    manifest = publication.manifest(
        kind="full",
        segments=(segment,),
        rows=night.rows,
        content_sum=night.content_sum,
        provenance=publication.encoding.provenance,
        provenances=night.provenances,
        carried=night.carried,
        statistics=publish_statistics(night.in_batch, night.nulls, night.samples),
        filter_file=None,
    )
    read = pool.map(
        verify_shard,
        [{"layout": publication.store.layout, "manifest": manifest, "shard": shard} for shard in range(shards)],
        done=lambda count: publication.progress("Verifying", 0.8 + 0.2 * count / shards),
    )
    require_equal(
        publication,
        rows=(night.rows, sum(rows for rows, _ in read)),
        sums=(night.content_sum, hashing.add(*(total for _, total in read))),
    )
    return PendingVersion(manifest, {"changed": night.rows, "removed": 0, "why_full": reason})
