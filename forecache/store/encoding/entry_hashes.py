"""Hashes of rows: rows with equal hashes have equal encodings, so unchanged rows need not be encoded."""

import numpy as np
import pyarrow as pa

from forecache.hashes import row_hashes
from forecache.store.encoding.entries import Encoding, provenance_suffixes
from forecache.store.manifest import Provenance


def entry_hashes(batch: pa.RecordBatch, encoding: Encoding, provenance: Provenance | None) -> np.ndarray:
    """Hash the key, served fields and provenance of every row, uint64 [n].

    Rows with different encodings have different hashes, so unchanged rows need not be encoded to be recognised.

    Args:
        provenance: That of all rows if it is known; None: the batch has its columns.
    """
    keys = [batch.column(column.name) for column in encoding.key.columns]
    values = [batch.column(field.name) for field in encoding.stored]
    return row_hashes([*keys, *values], _provenance_numbers(batch, encoding, provenance))


def _provenance_numbers(
    batch: pa.RecordBatch, encoding: Encoding, provenance: Provenance | None
) -> "np.ndarray | np.uint64":
    """A number for the provenance of every row: 0 for the version's, else one more than its id."""
    if provenance is not None and not encoding.is_packed:
        return np.uint64(0 if provenance == encoding.provenance else 1 + int(provenance.id, 16))
    if encoding.is_packed:
        return np.uint64(0)
    suffixes, _, _ = provenance_suffixes(batch, encoding.provenance)
    if suffixes is None:
        return np.uint64(0)
    distinct = suffixes.dictionary_encode()
    numbers = [1 + int(text[2:], 16) if len(text) > 1 else 0 for text in distinct.dictionary.to_pylist()]
    return np.array(numbers, np.uint64)[distinct.indices.to_numpy()]
