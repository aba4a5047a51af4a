"""Compares a row group of the log in one process: read in batches, grouped by release and versions of the stores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import xxhash

from forecache.errors import ForecacheError
from forecache.lake.delta.files import place_of
from forecache.monitoring.parity.found import Found
from forecache.monitoring.parity.group import Group
from forecache.monitoring.parity.live.looks import looks_of
from forecache.monitoring.parity.live.streams import Indexed, Streamed
from forecache.monitoring.parity.replayed import Logged, Replayed
from forecache.monitoring.parity.versions import Kept, NamedStores, StoreVersion, Versions
from forecache.realtime.log.record import table_of
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.load import load_release
from forecache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024
COLUMNS = (
    "request_id", "arrived_at", "request", "items", "release", "model_version", "features", "scores", "score_dtype",
    "rung", "rungs", "ranking", "why", "stores", "live",
)  # fmt: skip
_HASHES = 2**64


@dataclass(frozen=True)
class Piece:
    """A row group of a file of the log."""

    path: str
    row_group: int
    rows: int


@dataclass(frozen=True)
class Job:
    """Inputs that all row groups of a replay share.

    Attributes:
        name: Name of the real-time model.
        kept: Versions that the stores removed, with their rows saved from the lake.
        sample: Share of the requests that are compared, by a hash of their id.
        live: By live view, the index of its stream's rows.
    """

    settings: Settings
    name: str
    kept: Mapping[StoreVersion, Kept] = field(default_factory=dict)
    sample: float = 1.0
    live: Mapping[str, Indexed] = field(default_factory=dict)


class Replay:
    """Releases, versions and streams that one process keeps open while it compares row groups."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.versions = Versions(job.settings, job.kept)
        self._streams = {view: Streamed(indexed) for view, indexed in job.live.items()}
        self._named = NamedStores()
        self._releases: dict[int, Replayed | None] = {}

    def compare(self, piece: Piece) -> Found:
        """Compute the answers of a row group again and compare them."""
        import pyarrow.parquet as pq

        found = Found()
        filesystem = place_of(self.job.settings, table_of(self.job.name)).open()
        with filesystem.open_input_file(piece.path) as source:
            batches = pq.ParquetFile(source).iter_batches(
                BATCH_ROWS, row_groups=[piece.row_group], columns=list(COLUMNS), use_threads=False
            )
            for batch in batches:
                self._compare_batch(batch, found)
        return found

    def _compare_batch(self, batch: "pa.RecordBatch", found: Found) -> None:
        arrived = batch.column("arrived_at").cast("int64").to_pylist()
        named = self._named.of(batch.column("stores"))
        # A file from before a column was added lacks it.
        there = [name for name in COLUMNS if name in batch.schema.names and name not in ("arrived_at", "stores")]
        columns = {name: batch.column(name).to_pylist() for name in there}
        groups: dict[tuple[int, int, tuple[StoreVersion, ...]], list[Logged]] = {}
        for place, values in enumerate(zip(*columns.values(), strict=True)):
            row = dict(zip(columns, values, strict=True))
            if self._is_sampled(row["request_id"]):
                stores, ages = named[place]
                key = (row["release"], row["model_version"], stores)
                looks = looks_of(row.get("live"))
                groups.setdefault(key, []).append(Logged(row, arrived[place], ages, looks=looks))
        for (number, model_version, stores), answers in groups.items():
            found.requests += len(answers)
            replayed = self._release(number)
            known, others = self._by_this_release(replayed, model_version, answers)
            found.not_recomputed["release"] += len(others)
            if replayed is not None and known:
                Group(replayed, stores, self.versions, self._streams, found).compare(known)

    def _is_sampled(self, request_id: str) -> bool:
        share = self.job.sample
        return share >= 1 or xxhash.xxh3_64_intdigest(request_id.encode()) < share * _HASHES

    def _release(self, number: int) -> Replayed | None:
        """Open a release of the log; None if it does not exist here, or does not load."""
        if number not in self._releases:
            try:
                loaded = load_release(open_releases(self.job.settings, self.job.name), number)
            except ForecacheError:
                self._releases[number] = None
            else:
                self._releases[number] = Replayed(loaded)
        return self._releases[number]

    @staticmethod
    def _by_this_release(
        replayed: Replayed | None, model_version: int, answers: Sequence[Logged]
    ) -> tuple[list[Logged], list[Logged]]:
        """Split logged answers: those of the release that has this number now, and those of an earlier one with it."""
        if replayed is None or replayed.loaded.release.model.version != model_version:
            return [], list(answers)
        made = replayed.loaded.release.created_at
        since_us = int(datetime.fromisoformat(made.replace("Z", "+00:00")).timestamp() * 1e6) if made else 0
        known = [each for each in answers if each.arrived_us >= since_us]
        return known, [each for each in answers if each.arrived_us < since_us]

    def close(self) -> None:
        self.versions.close()
        for replayed in self._releases.values():
            if replayed is not None:
                replayed.loaded.close()
        self._releases.clear()


_open: dict[str, Any] = {}


def compare_piece(*, job: Job, piece: Piece) -> Found:
    """Compare a row group in a worker process, which reuses its open `LogReplay` for calls with the same job."""
    replay = _open.get("replay")
    if replay is None or replay.job != job:
        close()
        replay = _open["replay"] = Replay(job)
    found: Found = replay.compare(piece)
    return found


def close() -> None:
    """Close the `LogReplay` that `compare_row_group` has open in this process."""
    replay = _open.pop("replay", None)
    if replay is not None:
        replay.close()
