"""Reading of a stream's table by offset, for publishes and the tailer.

No row is ever removed from the table, and the column `position` of a row is the Delta version that wrote it. So the
rows up to an offset are the table at that Delta version, even after the version was vacuumed and its files merged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.serve.store.encoding.streamed_rows import EVENT_DAY, HOUR, PLACE, POSITION, moments_of

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyarrow.dataset import Dataset

_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class StreamTable:
    """A stream's table at its newest version; version -1 and no rows if it does not exist yet.

    Attributes:
        id: Id of the table, which changes if it is removed and created again.
    """

    settings: Settings
    name: str
    version: int
    id: str

    def batches(
        self, columns: Sequence[str], *, above: int = -1, up_to: int | None = None, where: pc.Expression | None = None
    ) -> Iterator[pa.Table]:
        """The rows whose offset is greater than `above` and at most `up_to`, in no particular order.

        Args:
            up_to: None: the version at which the table is open.
            where: A further condition.
        """
        if self.version >= 0:
            dataset = open_dataset(self._open())
            yield from self._scan(dataset, columns, above=above, up_to=up_to, where=where)

    def ordered_batches(
        self, columns: Sequence[str], *, above: int = -1, up_to: int | None = None, where: pc.Expression | None = None
    ) -> Iterator[pa.Table]:
        """As `batches`, in the order of the stream, an hour of commits at a time; needs the memory of an hour.

        The Delta log is read once.
        """
        if self.version < 0:
            return
        table = self._open()
        for hour in sorted({str(values[HOUR]) for values in table.partitions()}):
            # A data set caches the footers of all files that it has read, so each hour gets a new one.
            of_hour = open_dataset(table, partitions=[(HOUR, "=", hour)])
            parts = list(self._scan(of_hour, [*columns, PLACE], above=above, up_to=up_to, where=where))
            if parts:
                rows = pa.concat_tables(parts)
                yield rows.take(pa.array(np.argsort(moments_of(rows), kind="stable")))

    def _open(self) -> "DeltaTable":
        return open_table(self.settings, self.name, version=self.version)

    def _scan(
        self, dataset: "Dataset", columns: Sequence[str], *, above: int, up_to: int | None, where: pc.Expression | None
    ) -> Iterator[pa.Table]:
        last = self.version if up_to is None else up_to
        condition = (pc.field(POSITION) > above) & (pc.field(POSITION) <= last)
        if where is not None:
            condition &= where
        # Little read-ahead: files are small, and each batch read ahead takes memory.
        scanner = dataset.scanner(list(columns), condition, batch_size=_BATCH_ROWS, batch_readahead=2)
        for batch in scanner.to_batches():
            if len(batch):
                yield pa.Table.from_batches([batch])

    def newest_day(self) -> date | None:
        """The newest day of an event, by the statistics of the files; None without statistics."""
        if self.version < 0:
            return None
        actions = self._open().get_add_actions(flatten=True)
        name = f"max.{EVENT_DAY}"
        if name not in actions.schema.names:
            return None
        newest = pc.max(pa.array(actions.column(name))).as_py()
        return newest if newest is None or isinstance(newest, date) else date.fromisoformat(str(newest))

    @property
    def columns(self) -> frozenset[str]:
        """Names of the table's columns; empty if there is no table."""
        if self.version < 0:
            return frozenset()
        return frozenset(field.name for field in open_table(self.settings, self.name).schema().fields)


def open_stream_table(settings: Settings, name: str) -> StreamTable:
    """Open the table of a stream at its newest version."""
    try:
        table = open_table(settings, name)
    except NotFoundError:
        return StreamTable(settings, name, -1, "")
    return StreamTable(settings, name, table.version(), str(table.metadata().id))
