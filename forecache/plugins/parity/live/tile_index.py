"""An index of the tiles of keys after any row of a stream's table.

The rows of a key are stored by tile, in the order of the stream, each combined with those before it. So the tile after
a given row is found by a binary search, however many events a key has. Sums are exact, so the order in which tiles are
combined changes no bit. The scan is that of Hillis and Steele (1986).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecache.kit.windows.plan import DAY_US, plan_from_json
from forecache.kit.windows.tiles import TileCodec, TileLayout, TileRows
from forecache.plugins.parity.live.shuffle import (
    AT_US,
    CHECK,
    HASH,
    MOMENT,
    ROW_OFFSET,
    ROW_PARTITION,
    WORDS,
    ViewRows,
)

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

        Args:
            behind: By partition, the offset.
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
