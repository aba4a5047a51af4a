"""The pending layers of the stores of a stream: answers that are shown before their commit, and such that were left."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from threading import Lock

import orjson
import pyarrow as pa

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.serve.store import open_store
from forecache.serve.store.encoding.streamed_rows import drop_unanswered, streamed_rows
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.layer import PENDING, LiveLayer, LiveRow, read_layer
from forecache.serve.store.live.pending import PendingWriter, open_pending_writer
from forecache.stream.step import StepResult
from forecache.stream.table.schema import ALL_PARTITIONS, FEATURE_VERSION, MODEL_VERSION, POSITION, RELEASE
from forecache.stream.table.writer import Offsets, StreamWriter

Rows = list[tuple[bytes, LiveRow]]


class _PendingLayers(ABC):
    """The pending layers of one stream. ConflictError if another process writes them.

    A shard has none: what an engine of the whole stream left waits for the events of all shards.
    """

    def __init__(self, settings: Settings, stream: Stream, table: StreamWriter) -> None:
        self._table, self._held = table, ExitStack()
        self._writers: list[PendingWriter] = []
        try:
            for name in stream.live_names if table.shard == ALL_PARTITIONS else ():
                self._open(name, open_store(settings, name).layout)
        except BaseException:
            self._held.close()
            raise

    @abstractmethod
    def _open(self, name: str, layout: StoreLayout) -> None: ...

    def _open_writer(self, layout: StoreLayout) -> None:
        writer = open_pending_writer(layout, committed=self._table.offsets, version=self._table.version)
        self._writers.append(self._held.enter_context(writer))

    def remove_lost_rows(self) -> None:
        """Remove the rows that a killed process left, if their messages are lost in Kafka."""
        for writer in self._writers:
            writer.give_up_waiting()

    def close(self) -> None:
        self._held.close()


class PendingRows(_PendingLayers):
    """Shows answers before their commit. NotFoundError if a store has no live layer."""

    def __init__(self, settings: Settings, stream: Stream, table: StreamWriter) -> None:
        self._tiles = {view.name for view in stream.views}
        self._rows_of: list[Callable[[StepResult, Offsets], Rows]] = []
        super().__init__(settings, stream, table)

    def _open(self, name: str, layout: StoreLayout) -> None:
        layer = read_layer(layout)
        if layer is None:
            raise NotFoundError(f"The store of {name} has no live layer.", remedy="Start the stream again.")
        self._open_writer(layout)
        self._rows_of.append(_tile_rows_function(name) if name in self._tiles else _answer_rows_function(layer))

    def put(self, batch: int, answered: StepResult, offsets: Offsets) -> None:
        """Show the answers to some messages that are not committed yet; UnavailableError if the disk is full."""
        for writer, rows_of in zip(self._writers, self._rows_of, strict=True):
            writer.put(batch, rows_of(answered, offsets), offsets)

    def confirm(self, batch: int, version: int) -> None:
        """Note that the table has a batch, and those before it, at a Delta version."""
        for writer in self._writers:
            writer.confirm(batch, version)

    def sweep(self) -> None:
        """Remove the rows that the live layers have by now."""
        for writer in self._writers:
            writer.remove_applied()


def _tile_rows_function(view: str) -> Callable[[StepResult, Offsets], Rows]:
    def rows(answered: StepResult, offsets: Offsets) -> Rows:
        # The offsets say which events are in the tiles, whichever commit will hold them.
        behind = orjson.dumps([offsets.get(partition, 0) for partition in range(max(offsets, default=-1) + 1)])
        return [(key, LiveRow(PENDING, at_us, entry, behind)) for key, at_us, entry in answered.live[view]]

    return rows


def _answer_rows_function(layer: LiveLayer) -> Callable[[StepResult, Offsets], Rows]:
    columns = [*layer.key.names, layer.event_time, *(field.name for field in layer.fields)]

    def rows(answered: StepResult, offsets: Offsets) -> Rows:
        del offsets
        found = drop_unanswered(answered.rows, layer.fields) if layer.replaces_rows else answered.rows
        if not found.num_rows:
            return []
        found = found.select(list(dict.fromkeys([*columns, MODEL_VERSION, RELEASE, FEATURE_VERSION])))
        found = found.append_column(POSITION, pa.repeat(pa.scalar(PENDING, pa.int64()), found.num_rows))
        return streamed_rows(found, layer.key, layer.fields, event_time=layer.event_time)

    return rows


class OrphanedPendingRows(_PendingLayers):
    """Keeps orphaned pending rows until the table and the live layer are beyond their events, then removes them.

    They are left by an engine with the freshness "event". Removed earlier, a key would show an older row; kept for
    ever, they would hide all later rows, since pending rows win over all others. Safe for threads.
    """

    def __init__(self, settings: Settings, stream: Stream, table: StreamWriter) -> None:
        self._busy = Lock()
        super().__init__(settings, stream, table)

    def _open(self, name: str, layout: StoreLayout) -> None:
        if (layout.streamed_folder / "pending.mdb").exists():
            self._open_writer(layout)

    @property
    def has_layers(self) -> bool:
        return bool(self._writers)

    def confirm(self, batch: int, version: int) -> None:
        del batch
        with self._busy:
            for writer in self._writers:
                writer.end_waiting_at(self._table.offsets, version)

    def sweep(self) -> None:
        with self._busy:
            for writer in self._writers:
                if writer.entries:
                    writer.remove_applied()
