"""Pending rows that an engine of the freshness "event" left, while one runs that shows no rows before their commit."""

from contextlib import ExitStack
from threading import Lock

from forecache.pipeline import Stream
from forecache.settings import Settings
from forecache.store import open_store
from forecache.store.live.pending import PendingWriter, open_pending_writer
from forecache.stream.table.writer import StreamWriter


class LeftRows:
    """They stay until the table has passed their events and the live layer has that, so that no key goes back.

    Without it they would hide whatever comes after them, for ever: pending rows win over all others. Safe for threads.

    Args:
        table: Writes the stream's table, and knows the offsets in it.

    Raises:
        ConflictError: Another process writes them.
    """

    def __init__(self, settings: Settings, stream: Stream, table: StreamWriter) -> None:
        self._table, self._held, self._busy = table, ExitStack(), Lock()
        self._writers: list[PendingWriter] = []
        layouts = [open_store(settings, name).layout for name in stream.live_names]
        try:
            for layout in layouts:
                if (layout.streamed / "pending.mdb").exists():
                    writer = open_pending_writer(layout, committed=table.offsets, version=table.version)
                    self._writers.append(self._held.enter_context(writer))
        except BaseException:
            self._held.close()
            raise

    def confirm(self, batch: int, version: int) -> None:
        """Say that the table holds a batch, and those before it, at a version."""
        del batch
        with self._busy:
            for writer in self._writers:
                writer.end_waiting_at(self._table.offsets, version)

    def sweep(self) -> None:
        """Remove what the live layers have by now."""
        with self._busy:
            for writer in self._writers:
                if writer.entries:
                    writer.sweep()

    def give_up_waiting(self) -> None:
        """Remove what a killed process left, because the messages are lost."""
        for writer in self._writers:
            writer.give_up_waiting()

    def close(self) -> None:
        self._held.close()
