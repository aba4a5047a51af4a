"""Tiles of a live view, folded from the rows of a stream's table.

Sums are exact, so tiles do not depend on how rows came in commits. Tiles of days that every version's night has are not
read; of them a layer may have some or none.
"""

from collections.abc import Callable, Iterator
from datetime import date

import numpy as np
import pyarrow as pa

from forecache.store.encoding.entries import encode_keys
from forecache.store.encoding.stream_source import StreamTable
from forecache.store.encoding.streamed_rows import EVENT_DAY, POSITION
from forecache.store.live.layer import LiveLayer
from forecache.store.live.rows import LiveRow, row_of
from forecache.store.live.writer import LiveWriter
from forecache.stream.tail.compare import Compared
from forecache.windows.event_states import event_states
from forecache.windows.fold import fold
from forecache.windows.plan import Plan, plan_from_json
from forecache.windows.tiles import Tiles

_EPOCH = date(1970, 1, 1)
_BLOCK = 1000
Rows = list[tuple[bytes, LiveRow]]


class TileValues:
    """Of a layer of tiles: the tiles of each key are its value.

    Args:
        night: The smallest as-of date of the versions, None where there is none: then all days count.
    """

    def __init__(self, layer: LiveLayer, night: Callable[[], date | None]) -> None:
        self._layer, self._night = layer, night
        self._plan: Plan = plan_from_json(dict(layer.plan))
        self._tiles = Tiles(self._plan)

    def of_commit(self, rows: pa.Table, writer: LiveWriter) -> Rows:
        return list(self._folded(rows, lambda keys: _held(writer, keys)).items())

    def of_table(
        self, table: StreamTable, *, above: int, up_to: int, since: date | None = None, writer: LiveWriter | None = None
    ) -> Rows:
        made: dict[bytes, LiveRow] = {}

        def before(keys: list[bytes]) -> list[LiveRow | None]:
            held = [None] * len(keys) if writer is None else _held(writer, keys)
            return [made.get(key, row) for key, row in zip(keys, held, strict=True)]

        there = table.columns
        columns = [name for name in dict.fromkeys([*self._plan.reads, POSITION]) if name in there]
        where = None if since is None else pa.compute.field(EVENT_DAY) >= pa.scalar(since)
        for rows in table.in_order(columns, above=above, up_to=up_to, where=where):
            made.update(self._folded(rows, before))
        return list(made.items())

    def compare(self, writer: LiveWriter, open_table: Callable[[], StreamTable], *, since: int) -> Compared:
        """All tiles of the days that count, folded anew from the table."""
        del since
        night = self._night() or _EPOCH

        def held(numbers: dict[str, int], rows: Iterator[tuple[bytes, bytes]]) -> tuple[int, dict[bytes, bytes]]:
            found = {key: row_of(record).value for key, record in rows}
            return numbers["applied"], found

        version, values = writer.scan(held)
        table = open_table()
        if table.version < version:
            return Compared(version, f"it has version {version} of a table whose newest version is {table.version}")
        anew = {key: row.value for key, row in self.of_table(table, above=-1, up_to=version, since=night)}
        ours, theirs = self._counted(values, night), self._counted(anew, night)
        wrong = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
        if not wrong:
            return Compared(version)
        return Compared(
            version,
            f"the tiles of {len(wrong):,} of {len(theirs):,} keys are not those of its events, such as those of "
            f"{min(wrong).decode(errors='replace')!r}",
        )

    def _folded(self, rows: pa.Table, before: Callable[[list[bytes]], list[LiveRow | None]]) -> dict[bytes, LiveRow]:
        """What rows, in the order of the stream, make of the tiles of their keys."""
        plan = self._plan
        for name in plan.reads:
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.nulls(len(rows), pa.float64()))
        encoded = encode_keys(rows, self._layer.key)
        if encoded.null_count:
            there = encoded.is_valid()
            rows, encoded = rows.filter(there), encoded.drop_null()
        if len(rows) == 0:
            return {}
        distinct = encoded.dictionary_encode()
        keys: list[bytes] = distinct.dictionary.to_pylist()
        codes = distinct.indices.to_numpy().astype(np.int64)
        at_us = rows.column(plan.time).cast(pa.int64()).combine_chunks().to_numpy()
        held = before(keys)
        folded = fold(
            plan, codes, at_us, event_states(plan, rows.select(list(plan.reads))),
            [None if row is None else row.value for row in held], None, None, self._night() or _EPOCH, see="nothing",
        )  # fmt: skip
        newest = _largest(codes, at_us, [-1 << 63 if row is None else row.event_us for row in held])
        positions = _largest(codes, rows.column(POSITION).to_numpy(), [-1] * len(keys))
        values = zip(keys, positions, newest, folded.entries, strict=True)
        return {key: LiveRow(position, at, entry) for key, position, at, entry in values}

    def _counted(self, entries: dict[bytes, bytes], night: date) -> dict[bytes, bytes]:
        """The tiles of days after a night, and those of minutes; keys that have none are left out."""
        found: dict[bytes, bytes] = {}
        keys, first = list(entries), (night - _EPOCH).days + 1
        for start in range(0, len(keys), _BLOCK):
            some = keys[start : start + _BLOCK]
            counted = self._tiles.since([entries[key] for key in some], first)
            found.update((key, entry) for key, entry in zip(some, counted, strict=True) if entry is not None)
        return found


def _held(writer: LiveWriter, keys: list[bytes]) -> list[LiveRow | None]:
    return [None if record is None else row_of(record) for record in writer.get_many(keys)]


def _largest(codes: np.ndarray, values: np.ndarray, least: list[int]) -> list[int]:
    """Of each code the largest of its values and of what is given."""
    largest = np.array(least, np.int64)
    np.maximum.at(largest, codes, values)
    found: list[int] = largest.tolist()
    return found
