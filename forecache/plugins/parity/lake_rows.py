"""Reads the rows of a published version from the lake, at its as-of date and Delta version, encoded as when publishing.

They verify the rows of a store, and replace those of a version that the store has removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import DamagedError, ForecacheError, NotFoundError
from forecache.base.settings import Settings
from forecache.kit.delta.tables import open_table
from forecache.serve.store import KeySchema
from forecache.serve.store import content_hash as hashing
from forecache.serve.store.encoding.entries import Encoder, EntryEncoding
from forecache.serve.store.encoding.prediction_source import NightReader
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.segment.index import key_hashes
from forecache.serve.store.values import FLOAT

_HASHES, _ROWS, _KEYS = "hashes.npy", "rows.npy", "keys.arrow"
_NO_SAMPLES = 1 << 40


class MissingLakeRowsError(ForecacheError):
    """The lake no longer has the rows."""


@dataclass(frozen=True)
class LakeContent:
    """Number and content hash of the rows of a version, as in a manifest.

    Attributes:
        rows: Number of rows.
        content_hash: Hash as in `Manifest.content_hash`.
    """

    rows: int
    content_hash: str


def lake_content(
    settings: Settings, table: str, delta_version: int, as_of: str, like: Manifest, *, folder: Path | None = None
) -> LakeContent:
    """Read and encode the rows of a version.

    Args:
        like: A manifest with the encoding of the rows: the version's own, or one with the same contract.
        folder: Folder in which packed rows are saved for `LakeRows`; None: rows are only counted and hashed.

    Raises:
        MissingLakeRowsError: The table, this version of it or one of its files does not exist.
        DamagedError: A file is damaged.
    """
    encoding = EntryEncoding(like.key, like.fields, like.provenance, like.is_packed, like.states)
    encoder = Encoder(encoding, _NO_SAMPLES)
    keys: list[pa.Array] = []
    parts: list[np.ndarray] = []
    try:
        reader = NightReader(open_table(settings, table, version=delta_version), as_of)
        for piece in reader.pieces:
            # The provenance is read from the rows, since the one in the manifest is to be verified.
            for batch in reader.batches(piece, encoding.columns(), batch_rows=encoding.batch_rows):
                some, entries = encoder.encode(batch, piece.label)
                if folder is not None:
                    keys.append(some)
                    parts.append(_matrix(entries, like.width))
    except pa.ArrowInvalid as error:
        raise DamagedError(f"The table {table} is damaged at its Delta version {delta_version}: {error}") from error
    except (NotFoundError, OSError) as error:
        raise MissingLakeRowsError(
            f"The table {table} cannot be read at its Delta version {delta_version}: {error}"
        ) from error
    if folder is not None:
        _save(folder, keys, parts, like.width)
    return LakeContent(encoder.rows, hashing.to_hex(encoder.sum))


class LakeRows:
    """The packed rows of a version that were saved in a folder; mapped, so that processes share them."""

    def __init__(self, folder: Path, key: KeySchema, columns: tuple[str, ...], states: tuple[str, ...] = ()) -> None:
        self.key, self.columns, self.states = key, columns, states
        self._hashes = np.load(folder / _HASHES, mmap_mode="r")
        self._rows = np.load(folder / _ROWS, mmap_mode="r")
        with pa.memory_map(str(folder / _KEYS)) as source:
            self._keys = pa.ipc.open_file(source).read_all()["key"].combine_chunks()
        self._longest_run = _longest_run(self._hashes)

    def matrix(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Look up keys as `Snapshot.matrix`: float32 [n, width], NaN if a key is not found, and found, bool [n]."""
        found = np.zeros(len(keys), np.bool_)
        matrix = np.full((len(keys), self._rows.shape[1]), np.nan, np.float32)
        if not len(self._hashes) or not keys:
            return matrix, found
        asked, hashes = pa.array(keys, pa.binary()), key_hashes(keys)
        first = np.searchsorted(self._hashes, hashes)
        for step in range(self._longest_run):  # more than one step only if two keys have the same hash
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
    """The length of the longest run of equal values in sorted values."""
    if not len(hashes):
        return 0
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    return int(np.diff(np.append(starts, len(hashes))).max())
