"""What the lake holds of a published version: rows of its as-of date at its Delta version, encoded as a publish does.

They prove what a store holds, and stand in for a version that the store has removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.errors import DamagedError, ForecacheError, NotFoundError
from forecache.lake.delta.tables import open_table
from forecache.settings import Settings
from forecache.store import KeySchema
from forecache.store import content_hash as hashing
from forecache.store.encoding.encoder import Encoder
from forecache.store.encoding.entries import Encoding
from forecache.store.encoding.prediction_source import NightReader
from forecache.store.manifest import Manifest
from forecache.store.packed import FLOAT
from forecache.store.segment.index import key_hashes

_HASHES, _ROWS, _KEYS = "hashes.npy", "rows.npy", "keys.arrow"
_NO_SAMPLES = 1 << 40


class Gone(ForecacheError):
    """The lake does not hold the rows any more."""


@dataclass(frozen=True)
class LakeContent:
    """What identifies the rows of a version.

    Attributes:
        rows: Their number.
        content_hash: As a manifest has it.
    """

    rows: int
    content_hash: str


def lake_content(
    settings: Settings, table: str, delta_version: int, as_of: str, like: Manifest, *, folder: Path | None = None
) -> LakeContent:
    """Read and encode the rows of a version.

    Args:
        like: Says how rows are encoded: the version's own manifest, or that of one with the same contract.
        folder: Where the rows are kept for `LakeRows`; None: they are only counted and hashed. They are packed then.

    Raises:
        Gone: The table, this version of it or one of its files is not there.
        DamagedError: A file is not what was written.
    """
    encoding = Encoding(like.key, like.fields, like.provenance, like.is_packed, like.states)
    encoder = Encoder(encoding, _NO_SAMPLES)
    keys: list[pa.Array] = []
    parts: list[np.ndarray] = []
    try:
        reader = NightReader(open_table(settings, table, version=delta_version), as_of)
        for piece in reader.pieces:
            # The provenance of each row is read from the rows: what a manifest says of it is what is to be proved.
            for batch in reader.batches(piece, encoding.columns(), batch_rows=encoding.batch_rows):
                some, entries = encoder.encode(batch, piece.place)
                if folder is not None:
                    keys.append(some)
                    parts.append(_matrix(entries, like.width))
    except pa.ArrowInvalid as error:
        raise DamagedError(f"The table {table} is damaged at its Delta version {delta_version}: {error}") from error
    except (NotFoundError, OSError) as error:
        raise Gone(f"The table {table} cannot be read at its Delta version {delta_version}: {error}") from error
    if folder is not None:
        _save(folder, keys, parts, like.width)
    return LakeContent(encoder.rows, hashing.to_hex(encoder.sum))


class LakeRows:
    """The packed rows of a version that were kept in a folder; mapped, so that processes share them."""

    def __init__(self, folder: Path, key: KeySchema, columns: tuple[str, ...], states: tuple[str, ...] = ()) -> None:
        self.key, self.columns, self.states = key, columns, states
        self._hashes = np.load(folder / _HASHES, mmap_mode="r")
        self._rows = np.load(folder / _ROWS, mmap_mode="r")
        with pa.memory_map(str(folder / _KEYS)) as source:
            self._keys = pa.ipc.open_file(source).read_all()["key"].combine_chunks()
        self._longest_run = _longest_run(self._hashes)

    def matrix(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """As `Snapshot.matrix`: float32 [n, width], NaN where a key is not found, and found bool [n]."""
        found = np.zeros(len(keys), np.bool_)
        matrix = np.full((len(keys), self._rows.shape[1]), np.nan, np.float32)
        if not len(self._hashes) or not keys:
            return matrix, found
        asked, hashes = pa.array(keys, pa.binary()), key_hashes(keys)
        first = np.searchsorted(self._hashes, hashes)
        for step in range(self._longest_run):  # more than one only where two keys have the same hash
            at = np.minimum(first + step, len(self._hashes) - 1)
            same = np.asarray(pc.equal(self._keys.take(pa.array(at)), asked)) & ~found
            matrix[same], found = self._rows[at[same]], found | same
        return matrix, found


def _matrix(entries: pa.Array, columns: int) -> np.ndarray:
    content = np.frombuffer(entries.buffers()[2], FLOAT)
    start = entries.offset * columns
    return content[start : start + len(entries) * columns].reshape(len(entries), columns)


def _save(folder: Path, keys: list[pa.Array], parts: list[np.ndarray], columns: int) -> None:
    all_keys = pa.concat_arrays(keys) if keys else pa.array([], pa.binary())
    rows = np.concatenate(parts) if parts else np.empty((0, columns), np.float32)
    hashes = key_hashes(all_keys.to_pylist())
    order = np.argsort(hashes, kind="stable")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / _HASHES, hashes[order])
    np.save(folder / _ROWS, rows[order])
    sorted_keys = pa.table({"key": all_keys.take(pa.array(order))})
    with pa.ipc.new_file(str(folder / _KEYS), sorted_keys.schema) as writer:
        writer.write_table(sorted_keys)


def _longest_run(hashes: np.ndarray) -> int:
    """How many equal values follow one another at most, in sorted values."""
    if not len(hashes):
        return 0
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    return int(np.diff(np.append(starts, len(hashes))).max())
