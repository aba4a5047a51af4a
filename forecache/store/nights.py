"""Comparing the published night with the one to be published, each at its Delta version, by the hashes of their rows.

A night that was written anew, as every new one is, has all its rows in the change data feed. So both partitions are
read side by side and hashed. Rows that lie at the same place in both are settled at once; of the others, those whose
hash is on one side only are encoded, and travel. The rest is neither encoded nor looked up.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from operator import ne

import numpy as np
import pyarrow as pa
from deltalake.exceptions import DeltaError

from forecache.errors import InputError, NotFoundError
from forecache.lake.tables import open_table
from forecache.store.candidate import Publication
from forecache.store.differences import Differences, DifferencesUnavailable, Rows
from forecache.store.encode import Encoding, encode_entries, encode_keys
from forecache.store.manifest import Provenance
from forecache.store.pool import num_cores
from forecache.store.rowhash import row_hashes
from forecache.store.snapshot import Snapshot
from forecache.store.source import NightReader, Piece
from forecache.store.work import refuse_bad_keys

ORIGIN = "partition"
KEPT_BYTES = 384 << 20
"""Rows that may differ are kept in memory up to here; beyond it those that do are read again."""

_TABLE_BITS = 24
_LOOKED_PIECES = 2
_LOOKED_ROWS = 2048
_HOPELESS = 3
"""Times more changes than a small segment is for, by a rough look, that make a comparison pointless."""


def compare_nights(publication: Publication, *, limit: int) -> Differences:
    """The rows in which the published night, at the published Delta version, and the one to be published differ.

    Args:
        limit: Most rows that a small segment is for.

    Raises:
        DifferencesUnavailable: The published rows cannot be read any more, too many rows differ, or keys are null, too
            long or there twice, which a full publish names.
    """
    current, source = publication.current, publication.source
    assert current is not None
    try:
        table = open_table(publication.settings, source.source.table, version=current.source.delta_version)
        old = _Side(
            NightReader(table, current.as_of), Encoding(publication.key, publication.fields, current.provenance)
        )
        new = _Side(source.reader, publication.encoding)
        with publication.store.snapshot(current.version) as snapshot, ThreadPoolExecutor(num_cores()) as threads:
            _read_side_by_side(old, new, threads, _Look(snapshot, new, limit))
            publication.progress("Comparing with the published night", 0.6)
            lone = _found_once([part.hashes for side in (old, new) for part in side.parts])
            for side in (old, new):
                side.choose(lone)
            _check(old, new, limit)
            gone, come = Rows(old.encoding, keep_entries=False), Rows(new.encoding, keep_entries=True)
            for rows, side in ((gone, old), (come, new)):
                for batch, only in side.chosen_rows(threads):
                    rows.add(batch, "changed row {}", only)
    except (DeltaError, NotFoundError, OSError) as error:
        text = " ".join(str(error).split())
        raise DifferencesUnavailable(f"the night {current.as_of} cannot be read as published: {text[:300]}") from None
    except InputError as error:
        raise DifferencesUnavailable(error.message) from None
    return Differences(come, gone, ORIGIN)


class _Look:
    """A look at the first rows of the first pieces of the new night: whether it is much like what is published.

    Most rows differ after most trainings; then it does not pay to compare them all.
    """

    def __init__(self, snapshot: Snapshot, new: "_Side", limit: int) -> None:
        self._snapshot = snapshot
        self._encoding = new.encoding
        self._rows = sum(piece.rows for piece in new.reader.pieces)
        self._limit = limit
        self._pieces = self._looked = self._differ = 0

    def at(self, batch: pa.RecordBatch, only: Provenance | None) -> None:
        """Look at the first batch of a piece.

        Raises:
            DifferencesUnavailable: Far more rows differ than a small segment is for.
        """
        some = batch.slice(0, _LOOKED_ROWS)
        keys = encode_keys(some, self._encoding.key)
        refuse_bad_keys(some, keys, self._encoding.key, "{}", 0)
        entries = encode_entries(some, self._encoding, only)[0].to_pylist()
        self._differ += sum(map(ne, self._snapshot.get_entries(keys.to_pylist()), entries))
        self._looked += len(some)
        self._pieces += 1
        likely = self._differ * self._rows // self._looked
        if self._pieces >= _LOOKED_PIECES and likely > _HOPELESS * self._limit:
            raise DifferencesUnavailable(f"compaction: about {likely:,} changed keys over a base of {self._rows:,}")


@dataclass
class _Part:
    """The rows of a piece that do not lie at the same place on the other side.

    Attributes:
        only: The provenance of all rows of the piece where it is known.
        positions: In the piece, int64 [n], ascending.
        hashes: Of these rows, uint64 [n].
        rows: Themselves, None where they are not kept.
        chosen: Which of them are on this side only, positions in `positions`.
    """

    piece: Piece
    only: Provenance | None
    positions: np.ndarray
    hashes: np.ndarray
    rows: pa.Table | None
    chosen: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


class _Side:
    """One of the two nights.

    Attributes:
        rows: Rows of the night, once it has been read.
        sum: Of the hashes of all rows.
    """

    def __init__(self, reader: NightReader, encoding: Encoding) -> None:
        self.reader = reader
        self.encoding = encoding
        self.rows = self.sum = 0
        self.parts: list[_Part] = []

    def columns(self, only: Provenance | None) -> list[str]:
        return self.encoding.columns(provenance=only is None)

    def hashed(self, piece: Piece | None) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        """The batches of a piece and the hashes of their rows; none where there is no piece."""
        if piece is not None:
            only = self.reader.provenance(piece)
            for batch in self.reader.batches(piece, self.columns(only)):
                yield batch, row_hashes(batch, self.encoding, only)

    def choose(self, wanted: np.ndarray) -> None:
        """Choose the rows whose hash is among `wanted`, which is sorted."""
        if len(wanted) == 0:
            return
        shift = np.uint64(64 - _TABLE_BITS)
        likely = np.zeros(1 << _TABLE_BITS, bool)
        likely[wanted >> shift] = True
        for part in self.parts:
            rows = np.flatnonzero(likely[part.hashes >> shift])
            some = part.hashes[rows]
            places = np.minimum(np.searchsorted(wanted, some), len(wanted) - 1)
            part.chosen = rows[wanted[places] == some]

    @property
    def num_chosen(self) -> int:
        return sum(len(part.chosen) for part in self.parts)

    @property
    def sum_unchosen(self) -> int:
        return self.sum - sum(int(part.hashes[part.chosen].sum()) for part in self.parts)

    def chosen_rows(self, threads: ThreadPoolExecutor) -> Iterator[tuple[pa.RecordBatch, Provenance | None]]:
        """The chosen rows, a batch a piece, and their provenance where the batch lacks its columns."""
        return threads.map(self._chosen_rows, [part for part in self.parts if len(part.chosen)])

    def _chosen_rows(self, part: _Part) -> tuple[pa.RecordBatch, Provenance | None]:
        if part.rows is not None:
            table = part.rows.take(pa.array(part.chosen))
        else:
            wanted, start, found = part.positions[part.chosen], 0, []
            for batch in self.reader.batches(part.piece, self.columns(part.only)):
                first, last = np.searchsorted(wanted, (start, start + len(batch)))
                found.append(batch.take(pa.array(wanted[first:last] - start)))
                start += len(batch)
            table = pa.Table.from_batches(found)
        return table.combine_chunks().to_batches()[0], part.only


class _Unsettled:
    """Gathers what of a piece does not lie at the same place on the other side."""

    def __init__(self) -> None:
        self.rows = self.sum = 0
        self._positions: list[np.ndarray] = []
        self._hashes: list[np.ndarray] = []
        self._batches: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch, hashes: np.ndarray, other: np.ndarray, *, keep: bool) -> int:
        """Take in a batch; `other` has the hashes at the same places. Returns the bytes kept."""
        unsettled = np.ones(len(hashes), bool)
        common = min(len(hashes), len(other))
        np.not_equal(hashes[:common], other[:common], out=unsettled[:common])
        rows = np.flatnonzero(unsettled)
        self._positions.append(rows + self.rows)
        self._hashes.append(hashes[rows])
        self.rows += len(hashes)
        self.sum += int(hashes.sum())
        if keep and len(rows):
            self._batches.append(batch.take(pa.array(rows)))
            return self._batches[-1].nbytes
        return 0

    def part(self, piece: Piece, only: Provenance | None) -> _Part:
        positions = np.concatenate(self._positions)
        table = pa.Table.from_batches(self._batches) if self._batches else None
        whole = table is not None and len(table) == len(positions)
        return _Part(piece, only, positions, np.concatenate(self._hashes), table if whole else None)


def _read_side_by_side(old: _Side, new: _Side, threads: ThreadPoolExecutor, look: _Look) -> None:
    """Read and hash both nights, and keep what is not settled."""
    lock, kept = threading.Lock(), 0

    def compare(pieces: tuple[Piece | None, Piece | None]) -> None:
        nonlocal kept
        found = (_Unsettled(), _Unsettled())
        nothing = (None, np.empty(0, np.uint64))
        streams = [side.hashed(piece) for side, piece in zip((old, new), pieces, strict=True)]
        for number, pair in enumerate(zip_longest(*streams, fillvalue=nothing)):
            if number == 0 and pieces[1] is not None and pair[1][0] is not None:
                look.at(pair[1][0], new.reader.provenance(pieces[1]))
            for unsettled, (batch, hashes), (_, other) in zip(found, pair, pair[::-1], strict=True):
                if batch is not None:
                    kept += unsettled.add(batch, hashes, other, keep=kept < KEPT_BYTES)
        with lock:
            for side, piece, unsettled in zip((old, new), pieces, found, strict=True):
                if piece is not None and unsettled.rows:
                    side.rows += unsettled.rows
                    side.sum += unsettled.sum
                    side.parts.append(unsettled.part(piece, side.reader.provenance(piece)))

    for _ in threads.map(compare, zip_longest(old.reader.pieces, new.reader.pieces)):
        pass


def _found_once(hashes: Iterable[np.ndarray]) -> np.ndarray:
    """The numbers that occur once in all arrays together, sorted."""
    together = np.concatenate([np.empty(0, np.uint64), *hashes])
    together.sort()
    differs = np.ones(len(together) + 1, bool)
    np.not_equal(together[1:], together[:-1], out=differs[1:-1])
    found: np.ndarray = together[differs[1:] & differs[:-1]]
    return found


def _check(old: _Side, new: _Side, limit: int) -> None:
    """Refuse where the rows found do not account for the difference of the two nights, or are too many."""
    most = max(old.num_chosen, new.num_chosen)
    if most > limit:
        raise DifferencesUnavailable(f"compaction: {most:,} changed keys over a base of {old.rows:,}")
    # A row that is there twice on one side can hide: its hash is not found once. Counts and sums tell.
    same_rows = old.rows - old.num_chosen == new.rows - new.num_chosen
    if not same_rows or (old.sum_unchosen - new.sum_unchosen) % (1 << 64):
        raise DifferencesUnavailable("the two nights differ by more than single rows: some are there more than once")
