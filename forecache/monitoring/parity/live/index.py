"""The tiles of keys as they were after any row of a stream's table.

Rows of a key are kept by tile, in the order of the stream, each combined with those before it. So the tile after some
row is found by a binary search, however many events a key has: sums are exact, and the order in which tiles are
combined changes no bit. The scan is that of Hillis and Steele (1986).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecache.monitoring.parity.live.spread import (
    AT_US,
    CHECK,
    HASH,
    MOMENT,
    ROW_OFFSET,
    ROW_PARTITION,
    WORDS,
    ViewRows,
)
from forecache.windows.layout import Layout
from forecache.windows.plan import DAY_US, plan_from_json
from forecache.windows.tiles import TileRows, Tiles

DAY, MINUTE = "day", "minute"
_GROUPS = ("hash", "check", "number", "start", "end")
_ROWS = ("moment", "words", "partition", "offset")


def index_share(*, rows: ViewRows, share: int, folder: Path) -> None:
    """Index the rows of one share of the keys, and remove their files."""
    plan = plan_from_json(rows.plan)
    tiles = Tiles(plan)
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


def _save(place: Path, kind: str, rows: np.ndarray, number: np.ndarray, words: np.ndarray, layout: Layout) -> None:
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
        "words": running(layout, np.cumsum(begins), words[order]),
        "partition": rows[:, ROW_PARTITION],
        "offset": rows[:, ROW_OFFSET],
    }
    for name, array in arrays.items():
        np.save(place / f"{kind}-{name}.npy", np.ascontiguousarray(array))


def running(layout: Layout, group: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Of tiles [n, width], rows of a group behind each other, each combined with all before it in its group."""
    words, step = words.copy(), 1
    while len(same := np.flatnonzero(group[step:] == group[:-step]) + step):
        words[same] = layout.combine(words[same - step], words[same])
        step *= 2
    return words


@dataclass(frozen=True)
class Kind:
    """The tiles of days, or those of minutes, of one share of the keys; mapped, so that processes share them.

    Attributes:
        hash, check, number, start, end: Of each tile: its key, its number, and its rows.
        moment, words, partition, offset: Of each row: the tile after it, and where it stands in table and topic.
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

    def after(self, hashes: np.ndarray, checks: np.ndarray, bounds: np.ndarray) -> TileRows:
        """The tiles of each key after its last row whose moment is not above a bound."""
        owner, tile = self._tiles_of(hashes, checks)
        row = self._last_row(tile, bounds[owner])
        there = row >= self.start[tile]
        owner, tile, row = owner[there], tile[there], row[there]
        return TileRows(owner, self.number[tile], self.words[row])

    def bound_of(self, hashes: np.ndarray, checks: np.ndarray, behind: np.ndarray) -> int | None:
        """The moment of the last row of one key before some offsets, -1 where it has none.

        None: in the stream's order, rows that are not before them stand between those that are.

        Args:
            behind: Of each partition the offset.
        """
        _, tile = self._tiles_of(hashes, checks)
        if not len(tile):
            return -1
        rows = slice(int(self.start[tile[0]]), int(self.end[tile[-1]]))
        partition, offset, moment = self.partition[rows], self.offset[rows], self.moment[rows]
        known = np.append(behind, 0)  # the last one is of partitions that came later
        seen = offset < known[np.minimum(partition, len(behind))]
        of_topic = partition >= 0  # others were read from landing files
        last = int(moment[seen & of_topic].max(initial=-1))
        return last if last < moment[~seen & of_topic].min(initial=np.iinfo(np.int64).max) else None

    def _tiles_of(self, hashes: np.ndarray, checks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All tiles of some keys: of which key each is, ascending, and its place."""
        first = np.searchsorted(self.hash, hashes, "left")
        counts = np.searchsorted(self.hash, hashes, "right") - first
        owner = np.repeat(np.arange(len(hashes)), counts)
        tile = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        same = self.check[tile] == checks[owner]
        return owner[same], tile[same]

    def _last_row(self, tile: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """Of each tile its last row whose moment is not above a bound; the row before its first where it has none."""
        low, high = self.start[tile] - 1, self.end[tile] - 1
        while (low < high).any():
            middle = (low + high + 1) // 2
            below = self.moment[np.maximum(middle, 0)] <= bounds
            goes_on = low < high
            low = np.where(goes_on & below, middle, low)
            high = np.where(goes_on & ~below, middle - 1, high)
        return low


def open_share(folder: Path, share: int, kind: str) -> Kind | None:
    """An index that `index_share` made; None where the view has no such tiles."""
    place = _place(folder, share)
    if not (place / f"{kind}-hash.npy").exists():
        return None
    arrays = {name: np.load(place / f"{kind}-{name}.npy", mmap_mode="r") for name in (*_GROUPS, *_ROWS)}
    return Kind(**arrays)
