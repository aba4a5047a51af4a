"""Pending rows that an engine with the freshness "event" left, for an engine that shows no rows before their commit."""

from contextlib import ExitStack
from threading import Lock

from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.serve.store import open_store
from forecache.serve.store.live.pending import PendingWriter, open_pending_writer
from forecache.stream.table.writer import StreamWriter


class OrphanedPendingRows:
    """Keeps orphaned pending rows until the table and the live layer are beyond their events, then removes them.

    Removed earlier, a key would show an older row; kept for ever, they would hide all later rows, since pending rows
    win over all others. Safe for threads.

    Args:
        table: The writer of the stream's table, which has its offsets.

    Raises:
        ConflictError: Another process writes them.
    """

    def __init__(self, settings: Settings, stream: Stream, table: StreamWriter) -> None:
        self._table, self._held, self._busy = table, ExitStack(), Lock()
        self._writers: list[PendingWriter] = []
        layouts = [open_store(settings, name).layout for name in stream.live_names]
        try:
            for layout in layouts:
                if (layout.streamed_folder / "pending.mdb").exists():
                    writer = open_pending_writer(layout, committed=table.offsets, version=table.version)
                    self._writers.append(self._held.enter_context(writer))
        except BaseException:
            self._held.close()
            raise

    def confirm(self, batch: int, version: int) -> None:
        """Note that the table has a batch, and those before it, at a Delta version."""
        del batch
        with self._busy:
            for writer in self._writers:
                writer.end_waiting_at(self._table.offsets, version)

    def sweep(self) -> None:
        """Remove the rows that the live layers have by now."""
        with self._busy:
            for writer in self._writers:
                if writer.entries:
                    writer.remove_applied()

    def remove_lost_rows(self) -> None:
        """Remove the rows that a killed process left, if their messages are lost in Kafka."""
        for writer in self._writers:
            writer.give_up_waiting()

    def close(self) -> None:
        self._held.close()
