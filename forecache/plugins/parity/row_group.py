"""Compares a row group of the log in one process: read in batches, grouped by release and versions of the stores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import xxhash

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.kit.delta.files import place_of
from forecache.plugins.parity.answer_group import AnswerGroup
from forecache.plugins.parity.replay_result import ReplayResult
from forecache.plugins.parity.replayed_release import LoggedAnswer, ReplayedRelease
from forecache.plugins.parity.store_versions import OpenVersions, SavedRows, StoreVersion, StoreVersionParser
from forecache.plugins.parity.stream_replay import IndexedStream, StreamReplay, read_live_lookups
from forecache.realtime.log.record import table_of
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.load import load_release

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1024
COLUMNS = (
    "request_id", "arrived_at", "request", "items", "release", "model_version", "features", "scores", "score_dtype",
    "rung", "rungs", "ranking", "why", "stores", "live",
)  # fmt: skip
_HASHES = 2**64


@dataclass(frozen=True)
class LogRowGroup:
    path: str
    row_group: int
    rows: int


@dataclass(frozen=True)
class ReplayJob:
    """Inputs that all row groups of a replay share."""

    settings: Settings
    name: str  # name of the real-time model
    kept: Mapping[StoreVersion, SavedRows] = field(default_factory=dict)
    sample: float = 1.0  # share of the requests that are compared, by a hash of their id
    live: Mapping[str, IndexedStream] = field(default_factory=dict)  # by live view, the index of its stream's rows


class LogReplay:
    """Releases, versions and streams that one process keeps open while it compares row groups."""

    def __init__(self, job: ReplayJob) -> None:
        self.job = job
        self.versions = OpenVersions(job.settings, job.kept)
        self._streams = {view: StreamReplay(indexed) for view, indexed in job.live.items()}
        self._named = StoreVersionParser()
        self._releases: dict[int, ReplayedRelease | None] = {}

    def compare(self, piece: LogRowGroup) -> ReplayResult:
        import pyarrow.parquet as pq

        found = ReplayResult()
        filesystem = place_of(self.job.settings, table_of(self.job.name)).open()
        with filesystem.open_input_file(piece.path) as source:
            batches = pq.ParquetFile(source).iter_batches(
                BATCH_ROWS, row_groups=[piece.row_group], columns=list(COLUMNS), use_threads=False
            )
            for batch in batches:
                self._compare_batch(batch, found)
        return found

    def _compare_batch(self, batch: "pa.RecordBatch", found: ReplayResult) -> None:
        arrived = batch.column("arrived_at").cast("int64").to_pylist()
        named = self._named.parse(batch.column("stores"))
        # A file from before a column was added lacks it.
        there = [name for name in COLUMNS if name in batch.schema.names and name not in ("arrived_at", "stores")]
        columns = {name: batch.column(name).to_pylist() for name in there}
        groups: dict[tuple[int, int, tuple[StoreVersion, ...]], list[LoggedAnswer]] = {}
        for place, values in enumerate(zip(*columns.values(), strict=True)):
            row = dict(zip(columns, values, strict=True))
            if self._is_sampled(row["request_id"]):
                stores, ages = named[place]
                key = (row["release"], row["model_version"], stores)
                looks = read_live_lookups(row.get("live"))
                groups.setdefault(key, []).append(LoggedAnswer(row, arrived[place], ages, looks=looks))
        for (number, model_version, stores), answers in groups.items():
            found.requests += len(answers)
            replayed = self._open_release(number)
            known, others = self._split_by_release(replayed, model_version, answers)
            found.not_recomputed["release"] += len(others)
            if replayed is not None and known:
                AnswerGroup(replayed, stores, self.versions, self._streams, found).compare(known)

    def _is_sampled(self, request_id: str) -> bool:
        share = self.job.sample
        return share >= 1 or xxhash.xxh3_64_intdigest(request_id.encode()) < share * _HASHES

    def _open_release(self, number: int) -> ReplayedRelease | None:
        """Open a release of the log; None if it does not exist here, or does not load."""
        if number not in self._releases:
            try:
                loaded = load_release(open_releases(self.job.settings, self.job.name), number)
            except ForecacheError:
                self._releases[number] = None
            else:
                self._releases[number] = ReplayedRelease(loaded)
        return self._releases[number]

    @staticmethod
    def _split_by_release(
        replayed: ReplayedRelease | None, model_version: int, answers: Sequence[LoggedAnswer]
    ) -> tuple[list[LoggedAnswer], list[LoggedAnswer]]:
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


def compare_row_group(*, job: ReplayJob, piece: LogRowGroup) -> ReplayResult:
    """Compare a row group in a worker process, which reuses its open `LogReplay` for calls with the same job."""
    replay = _open.get("replay")
    if replay is None or replay.job != job:
        close_replay()
        replay = _open["replay"] = LogReplay(job)
    found: ReplayResult = replay.compare(piece)
    return found


def close_replay() -> None:
    """Close the `LogReplay` that `compare_row_group` has open in this process."""
    replay = _open.pop("replay", None)
    if replay is not None:
        replay.close()
