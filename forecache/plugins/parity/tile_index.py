"""An index of the tiles of keys after any row of a stream's table.

The rows of a key are stored by tile, in the order of the stream, each combined with those before it. So the tile after
a given row is found by a binary search, however many events a key has. Sums are exact, so the order in which tiles are
combined changes no bit. The scan is that of Hillis and Steele (1986).
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from forecache.kit.windows.fold import cannot_sum, event_states
from forecache.kit.windows.plan import DAY_US, MergePlan, plan_from_json
from forecache.kit.windows.tiles import TileCodec, TileLayout, TileRows
from forecache.serve.store import KeySchema
from forecache.serve.store.encoding.entries import encode_keys
from forecache.serve.store.encoding.streamed_rows import EVENT_DAY, HOUR, PLACE, POSITION, StreamTable, moments_of
from forecache.serve.store.segment.index import key_hashes
from forecache.stream.table.schema import OFFSET, PARTITION, add_missing_columns

HASH, CHECK, MOMENT, AT_US, ROW_PARTITION, ROW_OFFSET, WORDS = range(7)
"""Columns of a row in a file; the words of its day tile and minute tile follow."""
_CHECK_SEED = 1


@dataclass(frozen=True)
class ViewRows:
    """The rows of a table that a view is computed from."""

    table: StreamTable
    key: KeySchema
    plan: dict[str, Any]  # JSON of the view's plan
    first_day: date  # events of earlier days are left out
    up_to: int  # rows above this position are left out
    bits: int  # there are 2**bits shares of the keys, by the first bits of their hash


def shuffle_hour(*, rows: ViewRows, hour: str, folder: Path) -> int:
    """Append the rows of an hour of commits to the files of their keys' shares; returns the number of rows."""
    plan, count = plan_from_json(rows.plan), 0
    there = rows.table.columns
    wanted = dict.fromkeys([*plan.reads, *rows.key.names, POSITION, PLACE, PARTITION, OFFSET])
    where = (pc.field(HOUR) == hour) & (pc.field(EVENT_DAY) >= pa.scalar(rows.first_day))
    columns = [name for name in wanted if name in there]
    for batch in rows.table.batches(columns, up_to=rows.up_to, where=where):
        words = _row_words(plan, rows.key, batch)
        share = share_of(words[:, HASH].view(np.uint64), rows.bits)
        for number in np.unique(share).tolist():
            with file_of(folder, number, hour).open("ab") as file:
                words[share == number].tofile(file)
        count += len(words)
    return count


def share_of(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Return the share of each key, by its hash, uint64 [n]."""
    return (hashes >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(hashes), np.int64)


def file_of(folder: Path, share: int, hour: str) -> Path:
    return folder / f"{share:05}-{hour.replace('/', '_').replace(':', '_')}.words"


def hashes_of(keys: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Compute two hashes of each key, uint64 [n] and int64 [n], which together identify it."""
    seeded = (xxhash.xxh3_64_intdigest(key, _CHECK_SEED) for key in keys)
    return key_hashes(keys), np.fromiter(seeded, np.uint64, len(keys)).view(np.int64)


def _row_words(plan: MergePlan, schema: KeySchema, rows: pa.Table) -> np.ndarray:
    rows = add_missing_columns(rows, plan.reads)
    if (too_large := cannot_sum(plan, rows)).any():
        rows = rows.filter(pa.array(~too_large))  # no events of the view: a stream does not commit them
    encoded = encode_keys(rows, schema)
    if encoded.null_count:
        rows, encoded = rows.filter(encoded.is_valid()), encoded.drop_null()
    distinct = (
        pa.array([], pa.binary()).dictionary_encode() if not len(rows) else _one_array(encoded).dictionary_encode()
    )
    codes = distinct.indices.to_numpy(zero_copy_only=False)
    hashes, checks = hashes_of(distinct.dictionary.to_pylist())
    states = event_states(plan, rows.select(list(plan.reads)))
    at_us = rows.column(plan.time).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    head = [hashes.view(np.int64)[codes], checks[codes], moments_of(rows), at_us]
    place = [rows.column(name).cast(pa.int64()).fill_null(-1).to_numpy() for name in (PARTITION, OFFSET)]
    return np.column_stack([*head, *place, states.day, states.minute]).astype(np.int64, copy=False)


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


DAY, MINUTE = "day", "minute"
_GROUPS = ("hash", "check", "number", "start", "end")
_ROWS = ("moment", "words", "partition", "offset")


def index_share(*, rows: ViewRows, share: int, folder: Path) -> None:
    """Index the rows of one share of the keys, and remove their files."""
    plan = plan_from_json(rows.plan)
    tiles = TileCodec(plan)
    width = WORDS + tiles.day.width + tiles.minute.width
    files = sorted(folder.glob(f"{share:05}-*.words"))
    parts = [np.fromfile(file, np.int64).reshape(-1, width) for file in files]
    words = np.concatenate(parts) if parts else np.empty((0, width), np.int64)
    place = _place(folder, share)
    place.mkdir()
    split = WORDS + tiles.day.width
    _save(place, DAY, words, words[:, AT_US] // DAY_US, words[:, WORDS:split], tiles.day)
    if plan.num_minute_tiles:
        _save(place, MINUTE, words, words[:, AT_US] // plan.tile_us, words[:, split:], tiles.minute)
    for file in files:
        file.unlink()


def _place(folder: Path, share: int) -> Path:
    return folder / f"{share:05}"


def _save(place: Path, kind: str, rows: np.ndarray, number: np.ndarray, words: np.ndarray, layout: TileLayout) -> None:
    hashes = rows[:, HASH].view(np.uint64)
    order = np.lexsort((rows[:, MOMENT], number, rows[:, CHECK], hashes))
    rows, number, hashes = rows[order], number[order], hashes[order]
    keys = (hashes, rows[:, CHECK], number)
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = np.logical_or.reduce([each[1:] != each[:-1] for each in keys])
    start = np.flatnonzero(begins)
    arrays = {
        **dict(zip(_GROUPS, (each[start] for each in keys), strict=False)),
        "start": start,
        "end": np.append(start[1:], len(rows)),
        "moment": rows[:, MOMENT],
        "words": combine_running(layout, np.cumsum(begins), words[order]),
        "partition": rows[:, ROW_PARTITION],
        "offset": rows[:, ROW_OFFSET],
    }
    for name, array in arrays.items():
        np.save(place / f"{kind}-{name}.npy", np.ascontiguousarray(array))


def combine_running(layout: TileLayout, group: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Combine each of some tiles [n, width] with all before it in its group; groups are contiguous."""
    words, step = words.copy(), 1
    while len(same := np.flatnonzero(group[step:] == group[:-step]) + step):
        words[same] = layout.combine(words[same - step], words[same])
        step *= 2
    return words


@dataclass(frozen=True)
class TileIndex:
    """The tiles of days, or those of minutes, of one share of the keys; mapped, so that processes share them.

    Attributes:
        hash, check, number, start, end: For each tile: the hashes of its key, its number, and the range of its rows.
        moment, words, partition, offset: For each row: its order in the table, the tile after it, and its Kafka
            partition and offset.
    """

    hash: np.ndarray
    check: np.ndarray
    number: np.ndarray
    start: np.ndarray
    end: np.ndarray
    moment: np.ndarray
    words: np.ndarray
    partition: np.ndarray
    offset: np.ndarray

    def tiles_after(self, hashes: np.ndarray, checks: np.ndarray, bounds: np.ndarray) -> TileRows:
        """Return the tiles of each key after its last row whose moment is not above a bound."""
        owner, tile = self._tiles_of(hashes, checks)
        row = self._last_row(tile, bounds[owner])
        there = row >= self.start[tile]
        owner, tile, row = owner[there], tile[there], row[there]
        return TileRows(owner, self.number[tile], self.words[row])

    def find_bound(self, hashes: np.ndarray, checks: np.ndarray, behind: np.ndarray) -> int | None:
        """Return the moment of one key's last row before some offsets, -1 if there is none.

        None: the table has rows after the offsets between those that are before them.
        """
        _, tile = self._tiles_of(hashes, checks)
        if not len(tile):
            return -1
        rows = slice(int(self.start[tile[0]]), int(self.end[tile[-1]]))
        partition, offset, moment = self.partition[rows], self.offset[rows], self.moment[rows]
        known = np.append(behind, 0)  # the last one is for partitions that were added later
        seen = offset < known[np.minimum(partition, len(behind))]
        of_topic = partition >= 0  # others were backfilled from landing files
        last = int(moment[seen & of_topic].max(initial=-1))
        return last if last < moment[~seen & of_topic].min(initial=np.iinfo(np.int64).max) else None

    def _tiles_of(self, hashes: np.ndarray, checks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find all tiles of some keys: for each the place of its key, ascending, and its own place."""
        first = np.searchsorted(self.hash, hashes, "left")
        counts = np.searchsorted(self.hash, hashes, "right") - first
        owner = np.repeat(np.arange(len(hashes)), counts)
        tile = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        same = self.check[tile] == checks[owner]
        return owner[same], tile[same]

    def _last_row(self, tile: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """The last row of each tile whose moment is not above a bound; the row before its first if there is none."""
        low, high = self.start[tile] - 1, self.end[tile] - 1
        while (low < high).any():
            middle = (low + high + 1) // 2
            below = self.moment[np.maximum(middle, 0)] <= bounds
            goes_on = low < high
            low = np.where(goes_on & below, middle, low)
            high = np.where(goes_on & ~below, middle - 1, high)
        return low


def open_share(folder: Path, share: int, kind: str) -> TileIndex | None:
    """Open an index that `index_share` made; None if the view has no such tiles."""
    place = _place(folder, share)
    if not (place / f"{kind}-hash.npy").exists():
        return None
    arrays = {name: np.load(place / f"{kind}-{name}.npy", mmap_mode="r") for name in (*_GROUPS, *_ROWS)}
    return TileIndex(**arrays)
