"""What worker processes do in a full publish: encode pieces of the source, build shards, read them back.

Each function takes and returns JSON-serialisable values; rows travel between phases in Arrow files under the
publish's staging folder, one a shard and encoding job, so that memory stays bounded by one shard.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.errors import InputError
from forecache.store import content_hash as hashing
from forecache.store.encoding.entries import Encoding, encode_entries, encode_keys
from forecache.store.encoding.prediction_source import Piece, open_reader
from forecache.store.keys import MAX_KEY_BYTES, KeyColumn, KeySchema
from forecache.store.layout import Layout, shard_file
from forecache.store.manifest import Field, Provenance, Source, manifest_from_json
from forecache.store.read.snapshot import Snapshot
from forecache.store.segment.index import key_hashes
from forecache.store.segment.writer import write_shard

ROWS = pa.schema([("key", pa.binary()), ("entry", pa.binary())])
_BLOCK_ROWS, _PAUSE_S = 1_000, 1e-4
_NAMED = 5
_MAX_PROVENANCES = 10_000
Row = TypeVar("Row")
_EVERY = 32
_LIST_ROWS = 1 << 12


def encoding_to_json(encoding: Encoding) -> dict[str, Any]:
    return asdict(encoding)


def encoding_from_json(data: dict[str, Any]) -> Encoding:
    return Encoding(
        KeySchema(tuple(KeyColumn(**column) for column in data["key"]["columns"])),
        tuple(Field(**field) for field in data["fields"]),
        Provenance(**data["provenance"]),
    )


def encode(
    *,
    source: dict[str, Any],
    storage_options: dict[str, str],
    pieces: list[dict[str, Any]],
    encoding: dict[str, Any],
    shards: int,
    sample_every: int,
    folder: str,
) -> dict[str, Any]:
    """Encode pieces of the source into one Arrow file a shard; returns counts, sums and where the samples are."""
    how = encoding_from_json(encoding)
    target = Path(folder)
    target.mkdir(parents=True)
    found = Encoded(how, sample_every)
    sink = _ShardFiles(target, shards)
    reader = open_reader(Source(**source), storage_options)
    for piece in (Piece(**item) for item in pieces):
        only = reader.provenance(piece)
        position = 0
        for batch in reader.batches(piece, how.columns(provenance=only is None)):
            keys, entries = found.add(batch, f"{piece.place}, row {{}}", position, only)
            sink.write(keys, entries)
            position += len(batch)
    sink.close()
    return found.result(target)


class Encoded:
    """Encodes batches and gathers what the publish needs to know about them."""

    def __init__(self, encoding: Encoding, sample_every: int) -> None:
        self.encoding = encoding
        self.sample_every = sample_every
        self.rows = 0
        self.sum = 0
        self.carried = 0
        self.nulls = {field.name: 0 for field in encoding.fields}
        self.provenances: dict[str, Provenance] = {}
        self.samples: dict[str, list[np.ndarray]] = {
            field.name: [] for field in encoding.fields if field.type in ("double", "bigint")
        }
        self.row_hashes = np.empty((0, 4), ">u4")
        """Of the last batch."""

    def add(
        self, batch: pa.RecordBatch, place: str, position: int = 0, only: Provenance | None = None
    ) -> tuple[pa.Array, pa.Array]:
        """Encode one batch.

        Args:
            place: With a `{}` for a row's position in it, which begins at `position`: for messages about bad rows.
            only: The provenance of all rows where it is known; None: the batch has its columns.
        """
        keys = encode_keys(batch, self.encoding.key)
        refuse_bad_keys(batch, keys, self.encoding.key, place, position)
        entries, others, carried = encode_entries(batch, self.encoding, only)
        joined = pc.binary_join_element_wise(keys, entries, b"\0")
        self.row_hashes = np.concatenate([hashing.row_hashes(rows) for rows in lists(joined)])
        self.sum = hashing.add(self.sum, hashing.hash_sum(self.row_hashes))
        self.rows += len(batch)
        self.carried += carried
        self.provenances.update(others)
        if len(self.provenances) > _MAX_PROVENANCES:
            raise InputError(
                f"The rows of one night come from more than {_MAX_PROVENANCES} scoring runs or times.",
                remedy="Write the same `scored_at` and `run_id` to all rows of a scoring run.",
            )
        for name in self.nulls:
            self.nulls[name] += count_nulls(batch.column(name))
        for name, parts in self.samples.items():
            values = batch.column(name).cast(pa.float64())[:: self.sample_every]
            parts.append(values.drop_null().to_numpy(zero_copy_only=False))
        return keys, entries

    def sample(self, name: str) -> np.ndarray:
        """The sampled values of a numeric field, float64 without nulls."""
        return np.concatenate(self.samples[name]) if self.samples[name] else np.empty(0)

    def result(self, folder: Path) -> dict[str, Any]:
        for name in self.samples:
            np.save(folder / f"sample-{name}.npy", self.sample(name))
        return {
            "folder": str(folder),
            "rows": self.rows,
            "sum": hashing.to_hex(self.sum),
            "carried": self.carried,
            "nulls": self.nulls,
            "provenances": {name: asdict(item) for name, item in self.provenances.items()},
        }


def count_nulls(column: pa.Array) -> int:
    """Nulls and, in floats, NaN."""
    nulls = int(column.null_count)
    if pa.types.is_floating(column.type):
        nulls += pc.sum(pc.is_nan(column)).as_py() or 0
    return nulls


def refuse_bad_keys(batch: pa.RecordBatch, keys: pa.Array, schema: KeySchema, place: str, position: int) -> None:
    """InputError where a key is null, empty or too long for LMDB; the message names the first rows."""
    if keys.null_count:
        bad = np.flatnonzero(keys.is_null().to_numpy(zero_copy_only=False))
        named = "; ".join(_row_name(batch, int(row), schema, place, position) for row in bad[:_NAMED])
        raise InputError(
            f"{len(bad)} rows or more have a null key: {named}.",
            remedy="Every key column needs a value: remove these rows from the prediction table.",
        )
    lengths = pc.binary_length(keys)
    extremes = pc.min_max(lengths).as_py()
    if len(keys) and not (extremes["min"] > 0 and extremes["max"] <= MAX_KEY_BYTES):
        bad = np.flatnonzero((lengths.to_numpy() == 0) | (lengths.to_numpy() > MAX_KEY_BYTES))
        named = "; ".join(
            f"{keys[int(row)].as_py()[:40].decode(errors='replace')!r}... with {lengths[int(row)]} bytes"
            f" in {place.format(position + int(row))}"
            for row in bad[:_NAMED]
        )
        raise InputError(
            f"{len(bad)} rows or more have a key that is empty or too long: {named}.",
            remedy=f"A key has 1 to {MAX_KEY_BYTES} bytes.",
        )


def _row_name(batch: pa.RecordBatch, row: int, schema: KeySchema, place: str, position: int) -> str:
    values = {name: batch.column(name)[row].as_py() for name in schema.names}
    return f"{values} in {place.format(position + row)}"


class _ShardFiles:
    """One Arrow stream a shard; rows go to the one that their key's hash chooses."""

    def __init__(self, folder: Path, shards: int) -> None:
        self.shards = shards
        self.files = [pa.OSFile(str(folder / f"{shard:03d}.arrow"), "wb") for shard in range(shards)]
        self.writers = [pa.ipc.new_stream(file, ROWS) for file in self.files]

    def write(self, keys: pa.Array, entries: pa.Array) -> None:
        batch = pa.RecordBatch.from_arrays([keys, entries], schema=ROWS)
        if self.shards == 1:
            self.writers[0].write_batch(batch)
            return
        shard_of = np.concatenate([shards_of(some, self.shards) for some in lists(keys)])
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


def lists(column: pa.Array) -> Iterator[list[bytes]]:
    """The values as Python objects, in lists so short that each finds its memory in the processor's cache."""
    for start in range(0, max(len(column), 1), _LIST_ROWS):
        yield column.slice(start, _LIST_ROWS).to_pylist()


def shards_of(keys: list[bytes], shards: int) -> np.ndarray:
    """The shard of every key, uint16 [n]."""
    return (key_hashes(keys) & np.uint64(shards - 1)).astype(np.uint16)


def shard_rows(folders: list[str], shard: int) -> tuple[pa.Array, pa.Array]:
    """The (keys, entries) of one shard from all encoding jobs."""
    batches: list[pa.RecordBatch] = []
    for folder in folders:
        with pa.memory_map(str(Path(folder) / f"{shard:03d}.arrow")) as file:
            batches.extend(pa.ipc.open_stream(file))
    table = pa.Table.from_batches(batches, ROWS).combine_chunks()
    if len(table) == 0:
        return pa.array([], pa.binary()), pa.array([], pa.binary())
    return table.column(0).chunk(0), table.column(1).chunk(0)


def build(*, folders: list[str], shard: int, target: str) -> dict[str, Any]:
    """Build one shard's LMDB file; returns its ShardInfo."""
    keys, entries = shard_rows(folders, shard)
    return asdict(write_shard(Path(target) / shard_file(shard), keys, entries, indexed=True))


def verify(*, root: str, manifest: str, shard: int) -> dict[str, Any]:
    """Read one shard back through the reader's own `get`; returns its row count and content sum."""
    with Snapshot(Layout(Path(root)), manifest_from_json(Path(manifest).read_bytes())) as snapshot:
        rows, total = read_back(snapshot, shard)
    return {"rows": rows, "sum": hashing.to_hex(total)}


def read_back(snapshot: Snapshot, shard: int, *, paced: bool = False) -> tuple[int, int]:
    """(rows, content sum) of a base shard as the reader's code finds them; no deltas lie over it.

    Every key of LMDB's pages is looked up through the index, and every n-th once more through LMDB's tree; an entry
    counts where both are the same.

    Args:
        paced: As in `row_blocks`.
    """
    rows = total = 0
    for keys in row_blocks(snapshot.base_keys(shard), paced=paced):
        entries = snapshot.get_entries(keys)
        for place in range(0, len(keys), _EVERY):
            if snapshot.get_entry(keys[place]) != entries[place]:
                entries[place] = None
        rows += len(keys) - entries.count(None)
        total = hashing.add(total, hashing.content_sum(present(keys, entries)))
    return rows, total


def present(keys: list[bytes], entries: list[bytes | None]) -> Iterable[tuple[bytes, bytes]]:
    """The (key, entry) pairs whose entry is there."""
    if None not in entries:
        return zip(keys, cast("list[bytes]", entries), strict=True)
    return [(key, entry) for key, entry in zip(keys, entries, strict=True) if entry is not None]


def row_blocks(items: Iterator[Row], *, paced: bool) -> Iterator[list[Row]]:
    """The rows in small blocks, so that their memory is used again, where `paced` with a short sleep behind each.

    Even a process of low priority keeps a core for a turn of some milliseconds, for which a reader on the same machine
    waits. One that sleeps leaves it at once.
    """
    while block := list(islice(items, _BLOCK_ROWS)):
        yield block
        if paced:
            time.sleep(_PAUSE_S)


JOBS: dict[str, Callable[..., dict[str, Any]]] = {"encode": encode, "build": build, "verify": verify}
