"""The content hash: the sum modulo 2**128 of each row's XXH3-128. Independent of order; rows can be subtracted.

XXH3: Y. Collet, https://github.com/Cyan4973/xxHash. Sums of row hashes as incremental set hashes: M. Bellare and
D. Micciancio, "A New Paradigm for Collision-Free Hashing" (1997), AdHash. It guards against faults, not against an
adversary who chooses the rows.
"""

from collections.abc import Iterable

import numpy as np
import xxhash

_MODULUS = 1 << 128


def content_sum(rows: Iterable[tuple[bytes, bytes]]) -> int:
    """Sum of the row hashes of (key, entry) pairs."""
    return hash_sum(row_hashes(map(b"\0".join, rows)))


def row_hashes(rows: Iterable[bytes]) -> np.ndarray:
    """XXH3-128 of rows that are already `key, 0x00, entry`: big-endian uint32 [n, 4]."""
    return np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, rows)), ">u4").reshape(-1, 4)


def hash_sum(hashes: np.ndarray) -> int:
    """Sum of row hashes as `row_hashes` returns them."""
    # Four columns of 32 bits: their sums of four thousand million rows fit into 64 bits.
    columns = hashes.sum(axis=0, dtype=np.uint64).tolist()
    return sum(column << 32 * place for place, column in enumerate(reversed(columns))) % _MODULUS


def add(*sums: int) -> int:
    return sum(sums) % _MODULUS


def subtract(left: int, right: int) -> int:
    return (left - right) % _MODULUS


def to_hex(value: int) -> str:
    return f"{value:032x}"


def from_hex(text: str) -> int:
    return int(text, 16)


def short_name(text: str) -> str:
    """Sixteen hex digits that depend on the text."""
    return xxhash.xxh3_64_hexdigest(text.encode())
