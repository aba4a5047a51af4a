"""Shuffles the rows of a stream's table for an index: as words in files, by hash shares of their keys.

Only one batch is in memory at a time, so the table may have any size.
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from forecache.kit.windows.fold import cannot_sum, event_states
from forecache.kit.windows.plan import MergePlan, plan_from_json
from forecache.serve.store import KeySchema
from forecache.serve.store.encoding.entries import encode_keys
from forecache.serve.store.encoding.streamed_rows import EVENT_DAY, HOUR, PLACE, POSITION, StreamTable, moments_of
from forecache.serve.store.segment.index import key_hashes
from forecache.stream.table.schema import OFFSET, PARTITION, add_missing_columns

HASH, CHECK, MOMENT, AT_US, ROW_PARTITION, ROW_OFFSET, WORDS = range(7)
"""Columns of a row in a file; the words of its day tile and minute tile follow."""
_CHECK_SEED = 1


@dataclass(frozen=True)
class ViewRows:
    """The rows of a table that a view is computed from.

    Attributes:
        plan: JSON of the view's plan.
        first_day: Events of earlier days are left out.
        up_to: Rows above this position are left out.
        bits: There are 2**bits shares of the keys, by the first bits of their hash.
    """

    table: StreamTable
    key: KeySchema
    plan: dict[str, Any]
    first_day: date
    up_to: int
    bits: int


def shuffle_hour(*, rows: ViewRows, hour: str, folder: Path) -> int:
    """Append the rows of an hour of commits to the files of their keys' shares; returns the number of rows."""
    plan, count = plan_from_json(rows.plan), 0
    there = rows.table.columns
    wanted = dict.fromkeys([*plan.reads, *rows.key.names, POSITION, PLACE, PARTITION, OFFSET])
    where = (pc.field(HOUR) == hour) & (pc.field(EVENT_DAY) >= pa.scalar(rows.first_day))
    columns = [name for name in wanted if name in there]
    for batch in rows.table.batches(columns, up_to=rows.up_to, where=where):
        words = _row_words(plan, rows.key, batch)
        share = share_of(words[:, HASH].view(np.uint64), rows.bits)
        for number in np.unique(share).tolist():
            with file_of(folder, number, hour).open("ab") as file:
                words[share == number].tofile(file)
        count += len(words)
    return count


def share_of(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Return the share of each key, by its hash, uint64 [n]."""
    return (hashes >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(hashes), np.int64)


def file_of(folder: Path, share: int, hour: str) -> Path:
    return folder / f"{share:05}-{hour.replace('/', '_').replace(':', '_')}.words"


def hashes_of(keys: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Compute two hashes of each key, uint64 [n] and int64 [n], which together identify it."""
    seeded = (xxhash.xxh3_64_intdigest(key, _CHECK_SEED) for key in keys)
    return key_hashes(keys), np.fromiter(seeded, np.uint64, len(keys)).view(np.int64)


def _row_words(plan: MergePlan, schema: KeySchema, rows: pa.Table) -> np.ndarray:
    rows = add_missing_columns(rows, plan.reads)
    if (too_large := cannot_sum(plan, rows)).any():
        rows = rows.filter(pa.array(~too_large))  # no events of the view: a stream does not commit them
    encoded = encode_keys(rows, schema)
    if encoded.null_count:
        rows, encoded = rows.filter(encoded.is_valid()), encoded.drop_null()
    distinct = (
        pa.array([], pa.binary()).dictionary_encode() if not len(rows) else _one_array(encoded).dictionary_encode()
    )
    codes = distinct.indices.to_numpy(zero_copy_only=False)
    hashes, checks = hashes_of(distinct.dictionary.to_pylist())
    states = event_states(plan, rows.select(list(plan.reads)))
    at_us = rows.column(plan.time).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    head = [hashes.view(np.int64)[codes], checks[codes], moments_of(rows), at_us]
    place = [rows.column(name).cast(pa.int64()).fill_null(-1).to_numpy() for name in (PARTITION, OFFSET)]
    return np.column_stack([*head, *place, states.day, states.minute]).astype(np.int64, copy=False)


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
