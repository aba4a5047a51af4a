"""Jobs of a full publish in worker processes: encode pieces of the source, build shards, read them back.

Jobs exchange rows as Arrow files in the publish's staging folder, one for each shard and encoding job, so that memory
stays bounded by one shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.kit.delta.comparison.partition import RowGroup
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.encoder import Encoder, short_lists
from forecache.serve.store.encoding.entries import EntryEncoding
from forecache.serve.store.encoding.prediction_source import open_night_reader
from forecache.serve.store.layout import StoreLayout, shard_file
from forecache.serve.store.manifest import Manifest, Provenance, ShardInfo, TableSource
from forecache.serve.store.publishing.read_back import read_back
from forecache.serve.store.publishing.streamed.key_set import KeySet, read_key_set
from forecache.serve.store.read.snapshot import Snapshot
from forecache.serve.store.segment.index import key_hashes
from forecache.serve.store.segment.writer import write_shard

ROWS = pa.schema([("key", pa.binary()), ("entry", pa.binary())])


@dataclass(frozen=True)
class EncodedRows:
    """The result of encoding an as-of date, or a share of it: figures, and folders of the sharded rows.

    Nulls and samples are of all rows of the batch, the other figures of the rows in the folders.

    Attributes:
        folders: Folders with one Arrow file for each shard.
        content_sum: Content hash of the source, computed before anything was sharded, sorted or written.
        carried: Rows that have a provenance of their own.
        in_batch: Rows of the batch, including those that streamed rows replace, which are not in the folders.
        nulls: By field.
        samples: For each numeric field every n-th value, float64, without nulls.
        provenances: Those other than the version's, by their ids.
    """

    folders: tuple[Path, ...]
    shards: int
    rows: int
    content_sum: int
    carried: int
    in_batch: int
    nulls: dict[str, int]
    samples: dict[str, np.ndarray]
    provenances: dict[str, Provenance]


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
    """Encode pieces of the source into one Arrow file for each shard.

    Args:
        hidden: File of the keys whose rows are replaced by the stream's, see `KeySet`.
    """
    folder.mkdir(parents=True)
    encoder = Encoder(encoding, sample_every)
    sink = ShardFiles(folder, shards)
    shown = _HiddenRowFilter(encoder, None if hidden is None else read_key_set(hidden))
    reader = open_night_reader(source, storage_options)
    for piece in pieces:
        only = reader.provenance(piece)
        position = 0
        for batch in reader.batches(piece, encoding.columns(provenance=only is None), batch_rows=encoding.batch_rows):
            sink.write(*shown.drop_hidden(*encoder.encode(batch, f"{piece.label}, row {{}}", position, only)))
            position += len(batch)
    sink.close()
    return EncodedRows(
        folders=(folder,),
        shards=shards,
        rows=encoder.rows - shown.hidden,
        content_sum=hashing.subtract(encoder.sum, shown.hidden_sum),
        carried=encoder.carried - shown.hidden_carried,
        in_batch=encoder.rows,
        nulls=encoder.nulls,
        samples={name: encoder.sample(name) for name in encoder.samples},
        provenances=encoder.provenances,
    )


class _HiddenRowFilter:
    """Drops the rows of keys whose streamed rows replace them, and counts them."""

    def __init__(self, encoder: Encoder, keys: KeySet | None) -> None:
        self._encoder, self._keys = encoder, keys
        self.hidden = self.hidden_sum = self.hidden_carried = 0

    def drop_hidden(self, keys: pa.Array, entries: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Drop hidden rows from those that the encoder has encoded last."""
        hidden = None if self._keys is None else self._keys.mask(keys)
        if hidden is None or not hidden.any():
            return keys, entries
        self.hidden += int(hidden.sum())
        self.hidden_sum = hashing.add(self.hidden_sum, hashing.hash_sum(self._encoder.row_hashes[hidden]))
        carried = pc.match_substring(entries.filter(pa.array(hidden)), "\n")
        self.hidden_carried += pc.sum(carried).as_py() or 0
        shown = pa.array(~hidden)
        return keys.filter(shown), entries.filter(shown)


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


def _shard_rows(folders: Sequence[Path], shard: int) -> tuple[pa.Array, pa.Array]:
    """The (keys, entries) of one shard from all encoding jobs."""
    batches: list[pa.RecordBatch] = []
    for folder in folders:
        with pa.memory_map(str(folder / f"{shard:03d}.arrow")) as file:
            batches.extend(pa.ipc.open_stream(file))
    table = pa.Table.from_batches(batches, ROWS).combine_chunks()
    if len(table) == 0:
        return pa.array([], pa.binary()), pa.array([], pa.binary())
    return table.column(0).chunk(0), table.column(1).chunk(0)


def build_shard(*, folders: Sequence[Path], shard: int, target: Path) -> ShardInfo:
    """Build one shard's LMDB file."""
    return write_shard(target / shard_file(shard), *_shard_rows(folders, shard), indexed=True)


def verify_shard(*, layout: StoreLayout, manifest: Manifest, shard: int) -> tuple[int, int]:
    """(rows, content sum) of one shard, read back through the reader's own `get`."""
    with Snapshot(layout, manifest) as snapshot:
        return read_back(snapshot, shard)
