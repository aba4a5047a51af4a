"""Computes features of live views again, from the rows of the stream's table that answers of a day included."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.kit.delta.log import open_if_exists
from forecache.kit.windows.merger import merger_of
from forecache.kit.windows.plan import plan_from_json
from forecache.kit.windows.tiles import TileRows
from forecache.plugins.parity.tile_index import (
    DAY,
    MINUTE,
    TileIndex,
    ViewRows,
    hashes_of,
    index_share,
    open_share,
    share_of,
    shuffle_hour,
)
from forecache.serve.store.encoding.streamed_rows import HOUR, PLACES_OF_A_COMMIT, StreamTable
from forecache.serve.store.live.layer import LiveLayer, read_layer
from forecache.serve.store.publishing.worker_pool import ProcessPool
from forecache.serve.store.remote_store import open_store
from forecache.stream.table.writer import offsets_of

if TYPE_CHECKING:
    from forecache.plugins.parity.store_versions import VersionRows


@dataclass(slots=True)
class LiveLookup:
    """A look-up of a live view by one request."""

    view: str
    at_us: int  # microseconds of Unix time
    position: int  # its keys had the rows of the stream's table up to this Delta version
    layer: str  # hash of the declaration of the live layer
    pending: Mapping[int, Sequence[int]]  # by place of a key with pending rows, the offsets after these
    bounds: dict[int, int] = field(default_factory=dict)  # by place of such a key, the moment of its last row

    def bounds_of(self, num_keys: int) -> np.ndarray:
        """Return for each key the largest moment of a row that it had, int64 [num_keys]."""
        found = np.full(num_keys, (self.position + 1) * PLACES_OF_A_COMMIT - 1, np.int64)
        for place, bound in self.bounds.items():
            found[place] = bound
        return found


def read_live_lookups(logged: Sequence[Mapping[str, Any]] | None) -> dict[str, LiveLookup] | None:
    """Read the live look-ups of a log record by their names; None if the log did not record them yet."""
    if logged is None:
        return None
    return {
        each["lookup"]: LiveLookup(
            each["view"], each["at_us"], each["position"], each["layer"],
            {one["key"]: one["offsets"] for one in each["pending"] or ()},
        )
        for each in logged
    }  # fmt: skip


@dataclass(frozen=True)
class NeededRows:
    """The rows of a stream's table that are needed to compute the answers of a day."""

    first_day: date  # the oldest as-of date that was merged: events of earlier days are not needed
    up_to: int | None  # the largest position; None: all positions, since keys had rows that were not committed yet

    def merge(self, other: "NeededRows") -> "NeededRows":
        both = None if self.up_to is None or other.up_to is None else max(self.up_to, other.up_to)
        return NeededRows(min(self.first_day, other.first_day), both)


def needed_rows_of(stores: pa.ListArray, live: pa.ListArray) -> dict[str, NeededRows]:
    """Return by view the rows that log records need."""
    looked = live.flatten()
    if not len(looked):
        return {}
    named = stores.flatten()
    nights = pa.table({"view": named.field("name"), "night": named.field("as_of")})
    first = nights.group_by("view").aggregate([("night", "min")])
    by_view = dict(zip(first["view"].to_pylist(), first["night_min"].to_pylist(), strict=True))
    pending = pc.fill_null(pc.list_value_length(looked.field("pending")), 0)
    looks = pa.table({"view": looked.field("view"), "position": looked.field("position"), "pending": pending})
    found = {}
    for each in looks.group_by("view").aggregate([("position", "max"), ("pending", "max")]).to_pylist():
        if each["view"] in by_view:  # else no answer names a version of the view
            night = date.fromisoformat(by_view[each["view"]])
            found[each["view"]] = NeededRows(night, None if each["pending_max"] else each["position_max"])
    return found


_EPOCH = date(1970, 1, 1)
_SHARE_ROWS, _MOST_BITS = 1 << 20, 8


@dataclass(frozen=True)
class IndexedStream:
    folder: Path
    layer: str  # hash of the current declaration of the live layer
    plan: Mapping[str, Any] = field(hash=False)
    created_us: int  # when the stream's table was created
    version: int  # version of the table that was read; -1: there is no table
    offsets: Mapping[int, int] = field(hash=False)  # by partition, the offset after the committed events
    bits: int


def index_views(
    settings: Settings, needs: Mapping[str, NeededRows], folder: Path, pool: ProcessPool
) -> dict[str, IndexedStream]:
    """Index the needed rows of each view that has a live layer; others are left out."""
    found = {}
    for number, (view, need) in enumerate(sorted(needs.items())):
        try:
            layer = read_layer(open_store(settings, view).layout)
            if layer is not None and layer.kind == "tiles":
                found[view] = _index_view(settings, layer, need, folder / f"live-{number}", pool)
        except ForecacheError:
            continue  # its answers are counted as not recomputed
    return found


def _index_view(
    settings: Settings, layer: LiveLayer, need: NeededRows, folder: Path, pool: ProcessPool
) -> IndexedStream:
    delta = open_if_exists(settings, layer.table)
    if delta is None:
        return IndexedStream(folder, layer.values_id, layer.plan, 0, -1, {}, 0)
    metadata, version = delta.metadata(), delta.version()
    num_rows = sum(delta.get_add_actions(flatten=True).column("num_records").to_pylist())
    bits = min(_MOST_BITS, (num_rows // _SHARE_ROWS).bit_length())
    up_to = version if need.up_to is None else min(need.up_to, version)
    table = StreamTable(settings, layer.table, version, str(metadata.id))
    rows = ViewRows(table, layer.key, dict(layer.plan), need.first_day, up_to, bits)
    folder.mkdir(parents=True)
    hours = sorted({str(each[HOUR]) for each in delta.partitions()})
    pool.map(shuffle_hour, [{"rows": rows, "hour": hour, "folder": folder} for hour in hours])
    pool.map(index_share, [{"rows": rows, "share": share, "folder": folder} for share in range(1 << bits)])
    created_us = int(metadata.created_time or 0) * 1000
    return IndexedStream(
        folder, layer.values_id, layer.plan, created_us, version, offsets_of(delta, layer.stream), bits
    )


class StreamReplay:
    """Repeats look-ups of one view in one process, from the index of its stream's rows."""

    def __init__(self, indexed: IndexedStream) -> None:
        self.indexed = indexed
        self._merger = merger_of(plan_from_json(dict(indexed.plan)))
        self._columns = tuple(feature.name for feature in self._merger.plan.features)
        self._states = tuple(column.name for column in self._merger.plan.base_columns)
        self._open: dict[tuple[int, str], TileIndex | None] = {}

    def find_problem(self, look: LiveLookup, held: "VersionRows") -> str:
        """Return why a look-up cannot be repeated, a key of `REASONS`; "" if it can."""
        indexed = self.indexed
        fits = self._columns == held.columns and set(self._states) <= set(held.states)
        if look.layer != indexed.layer or not fits:
            return "live"
        if look.position >= 0 and (look.at_us < indexed.created_us or look.position > indexed.version):
            return "live"
        for behind in look.pending.values():
            # An older engine wrote no offsets.
            if not behind or any(indexed.offsets.get(place, 0) < offset for place, offset in enumerate(behind)):
                return "pending"
        return ""

    def find_bounds(self, look: LiveLookup, keys: list[bytes]) -> bool:
        """Find the last row of each key with pending rows; returns False if the table has them in another order."""
        for place, behind in look.pending.items():
            hashes, checks = hashes_of(keys[place : place + 1])
            kind = self._open_index(int(share_of(hashes, self.indexed.bits)[0]), DAY)
            bound = None if kind is None else kind.find_bound(hashes, checks, np.array(behind, np.int64))
            if bound is None:
                return False
            look.bounds[place] = bound
        return True

    def merge_features(
        self,
        held: "VersionRows",
        as_of: str,
        keys: list[bytes],
        matrix: np.ndarray,
        known: np.ndarray,
        at_us: np.ndarray,
        bounds: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Merge a version's rows with the stream's; returns features, float32 [n, d], and the known keys, bool [n].

        Args:
            bounds: For each key, the moment of the stream's table up to which its rows count, int64 [n].
        """
        base = np.ascontiguousarray(matrix[:, len(held.columns) :]).view("<i8")
        base = base.take([held.states.index(name) for name in self._states], axis=1)
        night = (date.fromisoformat(as_of) - _EPOCH).days
        return self._merger.merge(base, known, self.tile_entries(keys, bounds), night, at_us)

    def tile_entries(self, keys: list[bytes], bounds: np.ndarray) -> list[bytes | None]:
        """Return the encoded tiles that the live layer had of each key, None if it had none."""
        hashes, checks = hashes_of(keys)
        day, minute = (self._tiles(kind, hashes, checks, bounds) for kind in (DAY, MINUTE))
        newest = np.full(len(keys), np.iinfo(np.int64).min)
        np.maximum.at(newest, minute.owner, minute.number)
        # A minute tile is dropped once there is one that is a longest window later, whenever a look-up is.
        kept = minute.number > newest[minute.owner] - self._merger.plan.num_minute_tiles
        minute = TileRows(minute.owner[kept], minute.number[kept], minute.words[kept])
        there = np.bincount(day.owner, minlength=len(keys)) > 0
        encoded = self._merger.tiles.encode(len(keys), day, minute)
        return [entry if has else None for entry, has in zip(encoded, there.tolist(), strict=True)]

    def _tiles(self, kind: str, hashes: np.ndarray, checks: np.ndarray, bounds: np.ndarray) -> TileRows:
        layout = self._merger.day if kind == DAY else self._merger.minute
        share, parts = share_of(hashes, self.indexed.bits), []
        for number in np.unique(share).tolist():
            its, index = np.flatnonzero(share == number), self._open_index(number, kind)
            if index is not None:
                found = index.tiles_after(hashes[its], checks[its], bounds[its])
                parts.append(TileRows(its[found.owner], found.number, found.words))
        if not parts:
            return TileRows(np.zeros(0, np.intp), np.zeros(0, np.int64), np.zeros((0, layout.width), np.int64))
        owner, numbers, words = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("owner", "number", "words")
        )
        order = np.argsort(owner, kind="stable")
        return TileRows(owner[order], numbers[order], words[order])

    def _open_index(self, share: int, kind: str) -> TileIndex | None:
        if (share, kind) not in self._open:
            self._open[share, kind] = open_share(self.indexed.folder, share, kind)
        return self._open[share, kind]
