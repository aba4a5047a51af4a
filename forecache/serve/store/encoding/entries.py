"""Encoding of rows as key bytes, entries and row hashes, vectorised, a batch at a time; and figures of the rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import InputError
from forecache.base.hashes import row_hashes
from forecache.base.output_kinds import ALLOWED, key_type_of_arrow
from forecache.declare import PROVENANCE_COLUMNS
from forecache.kit.delta.comparison.partition import BATCH_ROWS
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.column_values import json_texts, packed_entries, served_type
from forecache.serve.store.keys import MAX_KEY_BYTES, KeyColumn, KeySchema
from forecache.serve.store.manifest import NUMERIC, Field, Provenance, timestamp

_PACKED_NUMBERS = 1 << 26
ROW_AS_OF = "as_of of the row"
"""Column of a row's own as-of date as a text, which only streamed rows have; no declared name has a space."""


@dataclass(frozen=True)
class EntryEncoding:
    """The format of entries: all that a worker process needs to encode rows."""

    key: KeySchema
    fields: tuple[Field, ...]
    provenance: Provenance
    is_packed: bool = False
    states: tuple[Field, ...] = ()

    @property
    def stored_fields(self) -> tuple[Field, ...]:
        """The fields of an entry and, of a live view, its states."""
        return (*self.fields, *self.states)

    def columns(self, *, provenance: bool = True) -> list[str]:
        """Columns to read; with `provenance`, those of the rows' provenance too."""
        names = [*self.key.names, *(field.name for field in self.stored_fields)]
        return [*names, *PROVENANCE_COLUMNS] if provenance and not self.is_packed else names

    @property
    def batch_rows(self) -> int:
        """Most rows that are encoded at a time, so that their entries fit into one array."""
        width = sum(field.size for field in self.stored_fields) if self.is_packed else 0
        return min(BATCH_ROWS, _PACKED_NUMBERS // max(1, width))


def key_schema(schema: pa.Schema, names: tuple[str, ...]) -> KeySchema:
    """The key schema of columns of an Arrow schema; raises InputError for a type that cannot be a key."""
    columns = []
    for name in names:
        kind = schema.field(name).type
        found = key_type_of_arrow(kind)
        if found is None:
            raise InputError(f"The key column {name!r} has the type {kind}, which cannot be a key.", remedy=ALLOWED)
        columns.append(KeyColumn(name, found))
    return KeySchema(tuple(columns))


def field_list(schema: pa.Schema, names: tuple[str, ...]) -> tuple[Field, ...]:
    """The fields of columns of an Arrow schema; raises InputError for a type that cannot be served."""
    fields = []
    for name in names:
        kind = schema.field(name).type
        found = served_type(kind)
        if found is None:
            raise InputError(
                f"The field {name!r} has the type {kind}, which cannot be served.",
                remedy="Serve numbers, text, booleans, dates, timestamps, lists of these and lists of structures of "
                "these, or leave it out of `publish.fields`.",
            )
        fields.append(Field(name, found))
    return tuple(fields)


def encode_keys(batch: pa.RecordBatch | pa.Table, schema: KeySchema) -> pa.Array:
    """Key bytes (binary, no nulls unless a key column is null) of every row."""
    columns = [_column(batch, name) for name in schema.names]
    texts = [
        _uuid_texts(column, key.name) if key.type == "uuid" else column.cast(pa.string())
        for column, key in zip(columns, schema.columns, strict=True)
    ]
    if len(texts) == 1:
        return texts[0].cast(pa.binary())
    return pc.binary_join_element_wise(*map(_escape_parts, texts), "|").cast(pa.binary())


def encode_entries(
    batch: pa.RecordBatch | pa.Table, encoding: EntryEncoding, only: Provenance | None = None
) -> tuple[pa.Array, dict[str, Provenance], int]:
    """Entries of every row: (binary array, provenances other than the version's by id, rows that carry one).

    `only` is the provenance of all rows if it is known; None: the batch has its columns.
    """
    if encoding.is_packed:

        def name_key(row: int) -> str:
            key = encode_keys(batch.slice(row, 1), encoding.key)[0].as_py() or b""
            return repr(key.decode(errors="replace"))

        columns = [_column(batch, field.name) for field in encoding.stored_fields]
        return packed_entries(columns, encoding.stored_fields, name_key), {}, 0
    pieces: list[Any] = []
    for position, field in enumerate(encoding.fields):
        pieces.append(("," if position else "{") + orjson.dumps(field.name).decode() + ":")
        pieces.append(json_texts(_column(batch, field.name), field.type))
    suffixes, others, carried = provenance_suffixes(batch, encoding.provenance, only)
    pieces.append("}" if suffixes is None else suffixes)
    return pc.binary_join_element_wise(*pieces, "").cast(pa.binary()), others, carried


def _column(batch: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    column = batch.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _uuid_texts(column: pa.Array, name: str) -> pa.Array:
    lengths = pc.unique(pc.binary_length(column.drop_null())).to_pylist()
    if lengths not in ([16], []):
        raise InputError(
            f"The key column {name!r} holds binary values of {lengths[:3]} bytes.", remedy="A UUID has 16 bytes."
        )
    valid = column.drop_null().cast(pa.binary(16))
    data = np.frombuffer(valid.buffers()[1], np.uint8, len(valid) * 16, valid.offset * 16)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.full((len(valid), 36), ord("-"), np.uint8)
    places = [i for i in range(36) if i not in (8, 13, 18, 23)]
    nibbles = np.stack([data >> 4, data & 15], axis=1).reshape(len(valid), 32)
    text[:, places] = digits[nibbles]
    offsets = np.arange(len(valid) + 1, dtype=np.int32) * 36
    texts = pa.StringArray.from_buffers(len(valid), pa.py_buffer(offsets), pa.py_buffer(text.tobytes()))
    if column.null_count == 0:
        return texts
    places_of = pc.subtract(pc.cumulative_sum(pc.cast(pc.is_valid(column), pa.int64())), 1)
    return texts.take(pc.if_else(pc.is_valid(column), places_of, pa.scalar(None, pa.int64())))


def _escape_parts(text: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(text, "[%|]")).as_py():
        text = pc.replace_substring(pc.replace_substring(text, "%", "%25"), "|", "%7C")
    return text


def provenance_suffixes(
    batch: pa.RecordBatch | pa.Table, default: Provenance, only: Provenance | None = None
) -> tuple[pa.Array | None, dict[str, Provenance], int]:
    """(end of each row, other provenances by id, number of rows that have one).

    The end is `}`, or `}`, a line feed and an id; it is None if every row has the default provenance.
    """
    if only == default or len(batch) == 0:
        return None, {}, 0
    if only is not None:
        return pa.repeat("}\n" + only.id, len(batch)), {only.id: only}, len(batch)
    names = [*PROVENANCE_COLUMNS, *([ROW_AS_OF] if ROW_AS_OF in batch.schema.names else [])]
    columns = [_column(batch, name) for name in names]
    if all(map(_is_constant, columns)) and provenance_of([column[0].as_py() for column in columns]) == default:
        return None, {}, 0
    table = pa.Table.from_arrays(columns, names)
    distinct = table.group_by(names).aggregate([([], "count_all")])
    combinations = [[row[name] for name in names] for row in distinct.to_pylist()]
    provenances = [provenance_of(values) for values in combinations]
    others = {item.id: item for item in provenances if item != default}
    counts = distinct.column("count_all").to_pylist()
    carried = sum(count for item, count in zip(provenances, counts, strict=True) if item != default)
    ends = ["}" if item == default else "}\n" + item.id for item in provenances]
    return pa.array(ends, pa.string()).take(_positions(table, combinations)), others, carried


def _positions(table: pa.Table, combinations: list[list[Any]]) -> pa.Array:
    found = np.zeros(len(table), np.int64)
    for position, values in enumerate(combinations[1:], 1):
        mask = np.ones(len(table), bool)
        for name, value in zip(table.column_names, values, strict=True):
            column = table.column(name)
            equal = pc.is_null(column) if value is None else pc.equal(column, pa.scalar(value, column.type))
            mask &= equal.fill_null(False).to_numpy()
        found[mask] = position
    return pa.array(found)


def _is_constant(column: pa.Array) -> bool:
    if column.null_count:
        return bool(column.null_count == len(column))
    return bool(pc.all(pc.equal(column, column[0])).as_py())


def provenance_of(values: list[Any]) -> Provenance:
    """The provenance from values in the order of PROVENANCE_COLUMNS, and optionally ROW_AS_OF."""
    name, model_version, feature_version, scored_at, run_id, *as_of = values
    return Provenance(
        model_name=name or "",
        model_version=-1 if model_version is None else model_version,
        feature_version=-1 if feature_version is None else feature_version,
        scored_at="" if scored_at is None else timestamp(scored_at),
        run_id=run_id or "",
        as_of=as_of[0] or "" if as_of else "",
    )


def entry_hashes(batch: pa.RecordBatch, encoding: EntryEncoding, provenance: Provenance | None) -> np.ndarray:
    """Hash the key, served fields and provenance of every row, uint64 [n].

    Rows with different encodings have different hashes, so unchanged rows need not be encoded to be recognised.
    `provenance` is that of all rows if it is known; None: the batch has its columns.
    """
    keys = [batch.column(column.name) for column in encoding.key.columns]
    values = [batch.column(field.name) for field in encoding.stored_fields]
    return row_hashes([*keys, *values], _provenance_numbers(batch, encoding, provenance))


def _provenance_numbers(
    batch: pa.RecordBatch, encoding: EntryEncoding, provenance: Provenance | None
) -> "np.ndarray | np.uint64":
    """A number for the provenance of every row: 0 for the version's, else one more than its id."""
    if encoding.is_packed:
        return np.uint64(0)
    if provenance is not None:
        return np.uint64(0 if provenance == encoding.provenance else 1 + int(provenance.id, 16))
    suffixes, _, _ = provenance_suffixes(batch, encoding.provenance)
    if suffixes is None:
        return np.uint64(0)
    distinct = suffixes.dictionary_encode()
    numbers = [1 + int(text[2:], 16) if len(text) > 1 else 0 for text in distinct.dictionary.to_pylist()]
    return np.array(numbers, np.uint64)[distinct.indices.to_numpy()]


_NAMED = 5
_MAX_PROVENANCES = 10_000
_LIST_ROWS = 1 << 12


class Encoder:
    """Encodes batches and sums up rows, content hash, nulls, provenances and samples for the publish."""

    def __init__(self, encoding: EntryEncoding, sample_every: int) -> None:
        self.encoding, self.sample_every = encoding, sample_every
        self.rows = self.sum = self.carried = 0
        self.nulls = {field.name: 0 for field in encoding.fields}
        self.provenances: dict[str, Provenance] = {}
        numeric = [field.name for field in encoding.fields if field.type in NUMERIC]
        self.samples: dict[str, list[np.ndarray]] = {name: [] for name in numeric}
        self.row_hashes = np.empty((0, 4), ">u4")  # of the last batch, [n, 4]

    def encode(
        self, batch: pa.RecordBatch, place: str, position: int = 0, only: Provenance | None = None
    ) -> tuple[pa.Array, pa.Array]:
        """Encode one batch as (keys, entries); `only` as for `encode_entries`.

        `place` names the batch in messages about bad rows, with `{}` for a row's position, from `position` on.
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
                f"The rows of one as-of date come from more than {_MAX_PROVENANCES} scoring runs or times.",
                remedy="Write the same `scored_at` and `run_id` to all rows of a scoring run.",
            )
        for name in self.nulls:
            column = batch.column(name)
            self.nulls[name] += column.null_count
            if pa.types.is_floating(column.type):
                self.nulls[name] += pc.sum(pc.is_nan(column)).as_py() or 0
        for name, parts in self.samples.items():
            values = batch.column(name).cast(pa.float64(), safe=False)[:: self.sample_every]
            parts.append(values.drop_null().to_numpy(zero_copy_only=False))
        return keys, entries

    def sample(self, name: str) -> np.ndarray:
        return np.concatenate(self.samples[name]) if self.samples[name] else np.empty(0)


def refuse_bad_keys(batch: pa.RecordBatch, keys: pa.Array, schema: KeySchema, place: str, position: int) -> None:
    """Raise InputError if a key is null, empty or too long for LMDB; the message names the first rows."""
    if keys.null_count:
        bad = np.flatnonzero(keys.is_null().to_numpy(zero_copy_only=False)).tolist()
        named = "; ".join(
            f"{batch.select(list(schema.names)).slice(row, 1).to_pylist()[0]} in {place.format(position + row)}"
            for row in bad[:_NAMED]
        )
        raise InputError(
            f"{len(bad)} rows or more have a null key: {named}.",
            remedy="Every key column needs a value: remove these rows from the table.",
        )
    lengths = pc.binary_length(keys)
    extremes = pc.min_max(lengths).as_py()
    if len(keys) and not (extremes["min"] > 0 and extremes["max"] <= MAX_KEY_BYTES):
        bad = np.flatnonzero((lengths.to_numpy() == 0) | (lengths.to_numpy() > MAX_KEY_BYTES)).tolist()
        named = "; ".join(
            f"{keys[row].as_py()[:40].decode(errors='replace')!r}... with {lengths[row]} bytes"
            f" in {place.format(position + row)}"
            for row in bad[:_NAMED]
        )
        raise InputError(
            f"{len(bad)} rows or more have a key that is empty or too long: {named}.",
            remedy=f"A key has 1 to {MAX_KEY_BYTES} bytes.",
        )


def short_lists(column: pa.Array) -> Iterator[list[bytes]]:
    """The values as Python objects, in lists short enough for the processor's cache."""
    for start in range(0, max(len(column), 1), _LIST_ROWS):
        yield column.slice(start, _LIST_ROWS).to_pylist()
