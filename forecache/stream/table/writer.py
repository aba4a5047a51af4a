"""Commits the rows of a stream with their Kafka offsets in one entry of the table's log, so that each counts once.

Each partition is an application of Delta's `txn` action, whose version is the next offset to read. A commit is made
only if the table still has the offsets at which the batch begins. So a second process, on this machine or another, is
refused, and a process that was killed after its commit reads from the table where to continue.

Bad messages are committed to the quarantine table in the same way, before the rows. A process that was killed in
between finds there the messages that it has quarantined already.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from forecache.base.errors import ConflictError, UnavailableError
from forecache.base.settings import Settings
from forecache.base.steps import stream_step
from forecache.declare import Stream
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.files import DataFile, new_path, place_of, retry_write, write_file
from forecache.kit.delta.log import CachedTable, open_if_exists
from forecache.kit.delta.stream_tables import STREAM_PROPERTIES, hour_of
from forecache.kit.delta.writers import new_folder
from forecache.kit.lease import Lease, LeaseLostError, local_lease
from forecache.lake.ingest.parsing import KEPT_BYTES
from forecache.stream.table.schema import (
    ALL_PARTITIONS,
    HOUR,
    OFFSET,
    PARTITION,
    PLACE,
    POSITION,
    QUARANTINE_TABLE,
    Shard,
    schema_of,
    transaction_name,
)

Offsets = Mapping[int, int]


@dataclass(frozen=True)
class CommitBatch:
    rows: pa.Table  # `forecache.stream.table.schema.schema_of`, without positions
    bad: pa.Table  # `forecache.stream.table.schema.QUARANTINE`
    upto: Offsets  # the next offsets to read after the batch, of all partitions
    marks: Mapping[str, int] = field(default_factory=dict)  # further `txn` actions, by application
    number: int = 0  # that its pending rows carry


class StreamWriter:
    """Writes the tables of one stream, or the rows of one of its shards, under its `lease`.

    `send_bad` is called with bad messages before they are quarantined.
    """

    offsets: dict[int, int]  # by partition, the next one to read according to the table; empty before the first commit
    version: int  # Delta version of the table; -1 before the first commit
    partitions: int  # that the topic had according to the table, those of other shards as well

    def __init__(
        self,
        settings: Settings,
        stream: Stream,
        *,
        send_bad: Callable[[pa.Table], None] = lambda bad: None,
        lease: Lease | None = None,
        shard: Shard = ALL_PARTITIONS,
    ) -> None:
        self._settings, self._stream, self._send_bad, self.shard = settings, stream, send_bad, shard
        self._lease = lease or local_lease(stream.name, "write")
        self.topic_id = ""
        self._schema = schema_of(stream)
        self._kept = {name: CachedTable(settings, name) for name in (stream.table, stream.quarantine_table)}
        self._put_aside: set[tuple[int, int]] | None = None
        self.refresh()

    def refresh(self) -> None:
        delta = self._kept[self._stream.table].open_newest()
        self.version = -1 if delta is None else int(delta.version())
        found = {} if delta is None else offsets_of(delta, self._stream.name)
        self.offsets, self.partitions = self.shard.select(found), len(found)

    def is_known_topic(self) -> bool:
        """True if the table's offsets belong to the topic with `topic_id`, or if one of both ids is not known."""
        delta = open_if_exists(self._settings, self._stream.table)
        known = None if delta is None else delta.transaction_version(self._topic_transaction_name)
        return known is None or not self.topic_id or known == _topic_number(self.topic_id)

    def write(self, batch: CommitBatch, *, resets: bool = False) -> int:
        """Commit a batch; returns the Delta version of its rows.

        With `resets`, the offsets may be those of another topic, and smaller than before. ConflictError if another
        process has committed to the stream, or has its lease. UnavailableError if the disk is full, or the lake or the
        brokers do not answer; the call may be repeated.
        """
        try:
            self._lease.ensure()
            return self._write(batch, resets)
        except LeaseLostError as error:
            if self._lease.is_taken_over:
                raise
            raise UnavailableError(error.message, remedy="It is renewed, and the rows are committed then.") from error

    def _write(self, batch: CommitBatch, resets: bool) -> int:
        # Not done by the caller, whose loop has to answer.
        batch = replace(batch, rows=batch.rows.combine_chunks(), bad=batch.bad.combine_chunks())
        if resets and self._is_of_another_topic(batch.upto):
            self._reset_quarantine(batch.upto)
        bad = self._drop_quarantined(batch.bad)
        self._send_bad(bad)
        stream_step("bad messages sent")
        if bad.num_rows:
            self._write_bad(bad, batch.upto)
        self.version = self._write_rows(batch, resets)
        self.offsets = {**self.offsets, **batch.upto}
        # No message before these offsets comes again.
        self._put_aside = self._put_aside and {(p, at) for p, at in self._put_aside if at >= self.offsets.get(p, 0)}
        stream_step("rows committed")
        return self.version

    def _write_rows(self, batch: CommitBatch, resets: bool) -> int:
        moved = {p: offset for p, offset in batch.upto.items() if self.offsets.get(p) != offset}
        written: list[DataFile] = []

        def decide(state: TableState) -> Change:
            self._refuse_if_overtaken(state.delta)
            if batch.rows.num_rows:
                # Rows contain the version of their commit, so each attempt at another version needs a new file.
                written[:] = [self._write_rows_file(batch.rows, state.version + 1)]
            stream_step("rows written")
            numbers = {**self._transactions_of(moved), **self._topic_transaction(resets), **batch.marks}
            return Change(written, transactions=numbers)

        if not moved and not batch.marks:
            return self.version
        return commit(self._target(self._stream.table, self._schema), decide)

    def _write_rows_file(self, rows: pa.Table, position: int) -> DataFile:
        n, hour = rows.num_rows, hour_of(datetime.now(timezone.utc))
        rows = rows.set_column(rows.schema.get_field_index(POSITION), POSITION, pa.repeat(pa.scalar(position), n))
        place = pa.array(np.arange(n, dtype=np.int32))
        rows = rows.set_column(rows.schema.get_field_index(PLACE), PLACE, place).drop_columns([HOUR])
        return self._write_file(self._stream.table, rows, hour)

    def _write_bad(self, bad: pa.Table, upto: Offsets) -> None:
        contents = pc.binary_slice(bad["content"], 0, KEPT_BYTES)
        bad = bad.set_column(bad.schema.get_field_index("content"), "content", contents.cast(pa.binary()))
        file = self._write_file(self._stream.quarantine_table, bad, hour_of(datetime.now(timezone.utc)))
        self._commit_bad(Change([file], transactions=self._transactions_of(upto)))
        assert self._put_aside is not None
        self._put_aside.update(_message_places(bad))
        stream_step("bad messages committed")

    def _commit_bad(self, change: Change) -> None:
        def decide(state: TableState) -> Change:
            self._refuse_if_overtaken(self._kept[self._stream.table].open_newest())
            return change

        commit(self._target(self._stream.quarantine_table, QUARANTINE_TABLE), decide)

    def _is_of_another_topic(self, upto: Offsets) -> bool:
        return not self.is_known_topic() or any(at < self.offsets.get(p, 0) for p, at in upto.items())

    def _reset_quarantine(self, upto: Offsets) -> None:
        """Set the quarantine's offsets to those of the new topic, whose offsets may equal those of the old one."""
        self._put_aside = None
        if open_if_exists(self._settings, self._stream.quarantine_table) is not None:
            self._commit_bad(Change(transactions=self._transactions_of(upto)))

    def _drop_quarantined(self, bad: pa.Table) -> pa.Table:
        """Leave out the bad messages that the quarantine has already."""
        if not bad.num_rows:
            return bad
        if self._put_aside is None:
            self._put_aside = self._read_quarantined()
        new = [place for place, where in enumerate(_message_places(bad)) if where not in self._put_aside]
        return bad.take(pa.array(new, pa.int64()))

    def _read_quarantined(self) -> set[tuple[int, int]]:
        """Read partition and offset of messages that a killed process quarantined and that will be read again."""
        delta = open_if_exists(self._settings, self._stream.quarantine_table)
        if delta is None:
            return set()
        again = pc.scalar(False)
        for partition in self.offsets.keys() | self.shard.select(offsets_of(delta, self._stream.name)).keys():
            start = self.offsets.get(partition, 0)
            end = delta.transaction_version(transaction_name(self._stream.name, partition)) or 0
            again |= (pc.field(PARTITION) == partition) & (pc.field(OFFSET) >= start) & (pc.field(OFFSET) < end)
        return set(_message_places(open_dataset(delta).to_table([PARTITION, OFFSET], filter=again)))

    def _write_file(self, table: str, rows: pa.Table, hour: str) -> DataFile:
        filesystem, path = place_of(self._settings, table).open(), new_path(new_folder(), {HOUR: hour})
        return retry_write(
            lambda: write_file(filesystem, path, rows.schema, [rows]), is_remote=self._settings.lake_is_remote
        )

    def _target(self, table: str, schema: pa.Schema) -> Target:
        from deltalake import Schema

        return Target(
            self._settings, table, Schema.from_arrow(schema), (HOUR,), keep_log=False, configuration=STREAM_PROPERTIES,
            kept=self._kept[table], fence=self._lease,
        )  # fmt: skip

    def _transactions_of(self, offsets: Offsets) -> dict[str, int]:
        return {transaction_name(self._stream.name, partition): offset for partition, offset in offsets.items()}

    @property
    def _topic_transaction_name(self) -> str:
        return f"forecache-stream-{self._stream.name}-topic"

    def _topic_transaction(self, resets: bool) -> dict[str, int]:
        """The `txn` action that records the topic's id, for the first commit and after a reset; else empty."""
        tells = self.topic_id and (resets or not self.offsets)
        return {self._topic_transaction_name: _topic_number(self.topic_id)} if tells else {}

    def _refuse_if_overtaken(self, delta: Any) -> None:
        """Raise ConflictError if the stream's table has other offsets than this process committed."""
        now = {} if delta is None else self.shard.select(offsets_of(delta, self._stream.name))
        if now != self.offsets:
            raise ConflictError(
                f"Another process has committed to the stream {self._stream.name!r}: its table is at the offsets "
                f"{now}, and this one had {self.offsets}.",
                remedy="Start it again: one process at a time has a stream, or each of its shards.",
            )


def offsets_of(delta: Any, name: str) -> dict[int, int]:
    """Return by partition the next offset after the rows of a stream's table.

    The first commit has all partitions of the topic, which are numbered from 0.
    """
    found: dict[int, int] = {}
    while (offset := delta.transaction_version(transaction_name(name, len(found)))) is not None:
        found[len(found)] = offset
    return found


def _topic_number(identity: str) -> int:
    """Hash a topic's id to a number that a `txn` action can have as its version."""
    return xxhash.xxh3_64_intdigest(identity.encode()) >> 1


def _message_places(rows: pa.Table) -> list[tuple[int, int]]:
    return list(zip(rows[PARTITION].to_pylist(), rows[OFFSET].to_pylist(), strict=True))
