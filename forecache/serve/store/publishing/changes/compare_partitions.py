"""Comparison of the published partition with the one to be published, by the hashes of their rows.

A new or rewritten as-of date has all its rows in the change data feed. So both partitions are compared, each at its
Delta version; only rows that differ, at most `limit` of them, are encoded and published.
"""

import errno
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import ne

import pyarrow as pa
from deltalake.exceptions import DeltaError

from forecache.base.errors import InputError, NotFoundError
from forecache.kit.delta.comparison.compare import MOST_THREADS, find_differing_rows
from forecache.kit.delta.comparison.hashed_partition import HashedPartition
from forecache.kit.delta.comparison.partition import RowGroup
from forecache.kit.delta.tables import open_table
from forecache.serve.store.encoding.encoder import refuse_bad_keys
from forecache.serve.store.encoding.entries import EntryEncoding, encode_entries, encode_keys, entry_hashes
from forecache.serve.store.encoding.prediction_source import NightReader
from forecache.serve.store.publishing.changes.row_changes import ChangedRows, ChangesUnavailable, RowChanges
from forecache.serve.store.publishing.publication import Publication
from forecache.serve.store.publishing.worker_pool import num_cores
from forecache.serve.store.read.snapshot import Snapshot

ORIGIN = "partition"
_SAMPLED_PIECES = 2
_MOST_SAMPLED_PIECES = 8
"""Bounded, as a look-up maps up to 64 KiB of the store for every row, which counts as memory."""
_SAMPLED_ROWS = 128
_HOPELESS = 3
"""If the estimate is so many times `limit`, the comparison is given up."""


def compare_partitions(publication: Publication, *, limit: int) -> RowChanges:
    """Find the rows that differ between the published partition, at its Delta version, and the one to be published.

    Args:
        limit: Most changed rows of a small segment.

    Raises:
        ChangesUnavailable: The published rows cannot be read any more, too many rows differ, or keys are null, too
            long or duplicate, which a full publish reports.
    """
    current, source = publication.current, publication.source
    assert current is not None
    try:
        table = open_table(publication.settings, source.source.table, version=current.source.delta_version)
        old_reader, new_reader = NightReader(table, current.as_of), source.reader
        old_encoding = replace(publication.encoding, provenance=current.provenance)
        old, new = _hash_partition(old_reader, old_encoding), _hash_partition(new_reader, publication.encoding)
        publication.progress("Comparing with the published night", 0.6)
        with publication.store.snapshot(current.version) as snapshot, _threads() as threads:
            estimate = _ChangeEstimate(snapshot, new_reader, publication.encoding, limit)
            found = find_differing_rows(old, new, threads, publication.staging, most=limit, look=estimate.add)
        if found is None:
            raise ChangesUnavailable("the two nights differ by more than single rows: some are there more than once")
        if max(len(side.rows) for side in found) > limit:
            raise ChangesUnavailable(f"compaction: more than {limit:,} changed keys over a base of {old.rows:,}")
        removed, added = (
            ChangedRows(old_encoding, keep_entries=False),
            ChangedRows(publication.encoding, keep_entries=True),
        )
        sides = ((removed, old, old_reader), (added, new, new_reader))
        with _threads() as threads:
            for (rows, side, reader), unmatched in zip(sides, found, strict=True):
                for batch, piece in side.read_rows_at(unmatched.rows, threads):
                    rows.add(batch, "changed row {}", reader.provenance(piece))
    except (DeltaError, NotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        text = " ".join(str(error).split())
        raise ChangesUnavailable(f"the night {current.as_of} cannot be read as published: {text[:300]}") from None
    except InputError as error:
        raise ChangesUnavailable(error.message) from None
    return RowChanges(removed, added, ORIGIN)


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(num_cores(), MOST_THREADS))


def _hash_partition(reader: NightReader, encoding: EntryEncoding) -> HashedPartition:
    return HashedPartition(
        reader,
        lambda piece: encoding.columns(provenance=reader.provenance(piece) is None),
        lambda batch, piece: entry_hashes(batch, encoding, reader.provenance(piece)),
    )


class _ChangeEstimate:
    """Estimates the number of changed rows from the first rows of the first new pieces.

    Most rows differ after most trainings; then it does not pay to compare them all.
    """

    def __init__(self, snapshot: Snapshot, reader: NightReader, encoding: EntryEncoding, limit: int) -> None:
        self._snapshot = snapshot
        self._reader = reader
        self._encoding = encoding
        self._rows = sum(piece.rows for piece in reader.pieces)
        self._limit = limit
        self._pieces = self._sampled = self._differ = 0

    def add(self, batch: pa.RecordBatch, piece: RowGroup) -> None:
        """Compare some rows of the first batch of a piece, unless enough have been.

        Raises:
            ChangesUnavailable: Far more rows differ than fit a small segment.
        """
        if self._pieces >= _MOST_SAMPLED_PIECES:
            return
        some = batch.slice(0, _SAMPLED_ROWS)
        keys = encode_keys(some, self._encoding.key)
        refuse_bad_keys(some, keys, self._encoding.key, "{}", 0)
        entries = encode_entries(some, self._encoding, self._reader.provenance(piece))[0].to_pylist()
        self._differ += sum(map(ne, self._snapshot.get_entries(keys.to_pylist()), entries))
        self._sampled += len(some)
        self._pieces += 1
        likely = self._differ * self._rows // self._sampled
        if self._pieces >= _SAMPLED_PIECES and likely > _HOPELESS * self._limit:
            raise ChangesUnavailable(f"compaction: about {likely:,} changed keys over a base of {self._rows:,}")
