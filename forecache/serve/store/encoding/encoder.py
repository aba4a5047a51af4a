"""The encoder of a publish: encodes batches of an as-of date one after the other, and sums up their figures."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.entries import EntryEncoding, encode_entries, encode_keys
from forecache.serve.store.fields import NUMERIC
from forecache.serve.store.keys import MAX_KEY_BYTES, KeySchema
from forecache.serve.store.manifest import Provenance

_NAMED = 5
_MAX_PROVENANCES = 10_000
_LIST_ROWS = 1 << 12


class Encoder:
    """Encodes batches and sums up rows, content hash, nulls, provenances and samples for the publish."""

    def __init__(self, encoding: EntryEncoding, sample_every: int) -> None:
        self.encoding = encoding
        self.sample_every = sample_every
        self.rows = 0
        self.sum = 0
        self.carried = 0
        self.nulls = {field.name: 0 for field in encoding.fields}
        self.provenances: dict[str, Provenance] = {}
        self.samples: dict[str, list[np.ndarray]] = {
            field.name: [] for field in encoding.fields if field.type in NUMERIC
        }
        self.row_hashes = np.empty((0, 4), ">u4")
        """Row hashes of the last batch, [n, 4]."""

    def encode(
        self, batch: pa.RecordBatch, place: str, position: int = 0, only: Provenance | None = None
    ) -> tuple[pa.Array, pa.Array]:
        """Encode one batch as (keys, entries).

        Args:
            place: Name of the batch in messages about bad rows, with `{}` for a row's position, from `position` on.
            only: The provenance of all rows if it is known; None: the batch has its columns.
        """
        keys = encode_keys(batch, self.encoding.key)
        refuse_bad_keys(batch, keys, self.encoding.key, place, position)
        entries, others, carried = encode_entries(batch, self.encoding, only)
        joined = pc.binary_join_element_wise(keys, entries, b"\0")
        self.row_hashes = np.concatenate([hashing.row_hashes(rows) for rows in short_lists(joined)])
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
            self.nulls[name] += _count_nulls(batch.column(name))
        for name, parts in self.samples.items():
            values = batch.column(name).cast(pa.float64(), safe=False)[:: self.sample_every]
            parts.append(values.drop_null().to_numpy(zero_copy_only=False))
        return keys, entries

    def sample(self, name: str) -> np.ndarray:
        """The sampled values of a numeric field, float64 without nulls."""
        return np.concatenate(self.samples[name]) if self.samples[name] else np.empty(0)


def _count_nulls(column: pa.Array) -> int:
    """Nulls and, in floats, NaN."""
    nulls = int(column.null_count)
    if pa.types.is_floating(column.type):
        nulls += pc.sum(pc.is_nan(column)).as_py() or 0
    return nulls


def refuse_bad_keys(batch: pa.RecordBatch, keys: pa.Array, schema: KeySchema, place: str, position: int) -> None:
    """Raise InputError if a key is null, empty or too long for LMDB; the message names the first rows."""
    if keys.null_count:
        bad = np.flatnonzero(keys.is_null().to_numpy(zero_copy_only=False))
        named = "; ".join(_row_name(batch, int(row), schema, place, position) for row in bad[:_NAMED])
        raise InputError(
            f"{len(bad)} rows or more have a null key: {named}.",
            remedy="Every key column needs a value: remove these rows from the table.",
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


def short_lists(column: pa.Array) -> Iterator[list[bytes]]:
    """The values as Python objects, in lists short enough for the processor's cache."""
    for start in range(0, max(len(column), 1), _LIST_ROWS):
        yield column.slice(start, _LIST_ROWS).to_pylist()
