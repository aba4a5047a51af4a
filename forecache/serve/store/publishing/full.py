"""A full publish: all rows of an as-of date are encoded, sharded, built into a new base and read back, in parallel.

Jobs of worker processes exchange rows as Arrow files in the publish's staging folder, one for each shard and encoding
job, so that memory stays bounded by one shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from forecache.base.errors import CheckError
from forecache.base.steps import publish_step
from forecache.kit.delta.comparison.partition import RowGroup
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.entries import Encoder, EntryEncoding, short_lists
from forecache.serve.store.encoding.prediction_source import NightReader, split_pieces
from forecache.serve.store.layout import StoreLayout, shard_file
from forecache.serve.store.manifest import Manifest, Provenance, SegmentInfo, ShardInfo, TableSource
from forecache.serve.store.publishing.overlay import make_key_set, read_key_set
from forecache.serve.store.publishing.publication import (
    PendingVersion,
    Publication,
    check_gates,
    measure_drift,
    publish_statistics,
    read_back,
    require_equal,
)
from forecache.serve.store.publishing.worker_pool import ProcessPool
from forecache.serve.store.read.snapshot import Snapshot
from forecache.serve.store.segment.index import key_hashes
from forecache.serve.store.segment.writer import num_shards, suits_num_shards, write_shard

ROWS = pa.schema([("key", pa.binary()), ("entry", pa.binary())])


@dataclass(frozen=True)
class EncodedRows:
    """The result of encoding an as-of date, or a share of it: figures, and folders of the sharded rows.

    Nulls and samples are of all rows of the batch, the other figures of the rows in the folders.
    """

    folders: tuple[Path, ...]  # each with one Arrow file for each shard
    shards: int
    rows: int
    content_sum: int  # computed before anything was sharded, sorted or written
    carried: int  # rows that have a provenance of their own
    in_batch: int  # includes rows that streamed ones replace, which are not in the folders
    nulls: dict[str, int]
    samples: dict[str, np.ndarray]  # of each numeric field every n-th value, float64, without nulls
    provenances: dict[str, Provenance]  # those other than the version's, by id


def encode_pieces(
    *,
    source: TableSource,
    storage_options: dict[str, str],
    pieces: Sequence[RowGroup],
    encoding: EntryEncoding,
    shards: int,
    sample_every: int,
    folder: Path,
    hidden: Path | None = None,
) -> EncodedRows:
    """Encode pieces of the source into one Arrow file for each shard; `hidden` is a `KeySet` of the stream's keys."""
    folder.mkdir(parents=True)
    encoder = Encoder(encoding, sample_every)
    sink = ShardFiles(folder, shards)
    hidden_keys = None if hidden is None else read_key_set(hidden)
    hidden_rows = hidden_sum = hidden_carried = 0
    table = DeltaTable(source.uri, version=source.delta_version, storage_options=storage_options)
    reader = NightReader(table, source.as_of)
    for piece in pieces:
        only = reader.provenance(piece)
        position = 0
        for batch in reader.batches(piece, encoding.columns(provenance=only is None), batch_rows=encoding.batch_rows):
            keys, entries = encoder.encode(batch, f"{piece.label}, row {{}}", position, only)
            if hidden_keys is not None and (mask := hidden_keys.mask(keys)).any():
                hidden_rows += int(mask.sum())
                hidden_sum = hashing.add(hidden_sum, hashing.hash_sum(encoder.row_hashes[mask]))
                carried = pc.match_substring(entries.filter(pa.array(mask)), "\n")
                hidden_carried += pc.sum(carried).as_py() or 0
                shown = pa.array(~mask)
                keys, entries = keys.filter(shown), entries.filter(shown)
            sink.write(keys, entries)
            position += len(batch)
    sink.close()
    return EncodedRows(
        folders=(folder,),
        shards=shards,
        rows=encoder.rows - hidden_rows,
        content_sum=hashing.subtract(encoder.sum, hidden_sum),
        carried=encoder.carried - hidden_carried,
        in_batch=encoder.rows,
        nulls=encoder.nulls,
        samples={name: encoder.sample(name) for name in encoder.samples},
        provenances=encoder.provenances,
    )


class ShardFiles:
    """One Arrow stream for each shard; the hash of its key chooses the shard of a row."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.shards = shards
        self.files = [pa.OSFile(str(folder / f"{shard:03d}.arrow"), "wb") for shard in range(shards)]
        self.writers = [pa.ipc.new_stream(file, ROWS) for file in self.files]

    def write(self, keys: pa.Array, entries: pa.Array) -> None:
        batch = pa.RecordBatch.from_arrays([keys, entries], schema=ROWS)
        if self.shards == 1:
            self.writers[0].write_batch(batch)
            return
        shard_of = np.concatenate([shards_of(some, self.shards) for some in short_lists(keys)])
        batch = batch.take(pa.array(np.argsort(shard_of, kind="stable")))
        starts = np.concatenate([[0], np.cumsum(np.bincount(shard_of, minlength=self.shards))])
        for shard in range(self.shards):
            count = int(starts[shard + 1] - starts[shard])
            if count:
                self.writers[shard].write_batch(batch.slice(int(starts[shard]), count))

    def close(self) -> None:
        for writer, file in zip(self.writers, self.files, strict=True):
            writer.close()
            file.close()


def shards_of(keys: list[bytes], shards: int) -> np.ndarray:
    """The shard of every key, uint16 [n]."""
    return (key_hashes(keys) & np.uint64(shards - 1)).astype(np.uint16)


def build_shard(*, folders: Sequence[Path], shard: int, target: Path) -> ShardInfo:
    """Build the LMDB file of one shard from the rows of all encoding jobs."""
    batches: list[pa.RecordBatch] = []
    for folder in folders:
        with pa.memory_map(str(folder / f"{shard:03d}.arrow")) as file:
            batches.extend(pa.ipc.open_stream(file))
    keys, entries = (column.combine_chunks() for column in pa.Table.from_batches(batches, ROWS).columns)
    return write_shard(target / shard_file(shard), keys, entries, indexed=True)


def verify_shard(*, layout: StoreLayout, manifest: Manifest, shard: int) -> tuple[int, int]:
    """(rows, content sum) of one shard, read back through the reader's own `get`."""
    with Snapshot(layout, manifest) as snapshot:
        return read_back(snapshot, shard)


_SAMPLE_ROWS = 200_000


def encode_night(publication: Publication, pool: ProcessPool) -> EncodedRows:
    """Encode all rows into staging, one file for each shard and job, and apply the publish gates."""
    source, encoding = publication.source, publication.encoding
    all_pieces = source.reader.pieces
    rows = sum(piece.rows for piece in all_pieces)
    shards = _choose_num_shards(publication, rows)
    publication.progress(f"Encoding {rows:,} rows of {source.source.as_of}", 0.0)
    hidden = None
    if publication.overlay is not None and publication.num_streamed:
        hidden = publication.staging / "streamed.arrow"
        make_key_set(publication.overlay.keys).write(hidden)
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
        drifted={} if current is None or publication.has_new_model else measure_drift(current, night.samples),
    )
    night = _add_streamed_rows(publication, night)
    publish_step("encoded")
    return night


def _add_streamed_rows(publication: Publication, night: EncodedRows) -> EncodedRows:
    if publication.overlay is None or not publication.num_streamed:
        return night
    encoder, keys, entries = publication.overlay.encode_rows(publication.encoding)
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
    folder, shards = publication.create_segment("base"), night.shards
    publication.progress(f"Building {shards} shards", 0.4)
    built = pool.map(
        build_shard,
        [{"folders": night.folders, "shard": shard, "target": folder} for shard in range(shards)],
        done=lambda count: publication.progress("Building", 0.4 + 0.4 * count / shards),
    )
    publish_step("built")
    segment = SegmentInfo(folder.name, "base", night.rows, 0, tuple(built))
    publication.move_segment(folder)
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
    )
    read = pool.map(
        verify_shard,
        [{"layout": publication.store.layout, "manifest": manifest, "shard": shard} for shard in range(shards)],
        done=lambda count: publication.progress("Verifying", 0.8 + 0.2 * count / shards),
    )
    require_equal(publication, (night.rows, night.content_sum), read)
    return PendingVersion(manifest, {"changed": night.rows, "removed": 0, "why_full": reason})
