"""The parity stage: computes a day of a request log again, and writes the result to the table `parity_<name>`."""

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from forecache.base.errors import ForecacheError, NotFoundError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.table_names import kept_name
from forecache.kit.delta.commit import Target
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import DataFile, place_of
from forecache.kit.delta.log import active_files
from forecache.kit.delta.partitions import replace_partitions, take_snapshot
from forecache.kit.delta.tables import open_table
from forecache.kit.delta.writers import write_rows
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.plugins.parity.answer_group import AnswerGroup
from forecache.plugins.parity.check_stores import StoreCheck, check_store
from forecache.plugins.parity.replay_result import ParityReport, ReplayResult, result_rows, result_schema
from forecache.plugins.parity.replayed_release import LoggedAnswer, ReplayedRelease
from forecache.plugins.parity.store_versions import (
    OpenVersions,
    SavedRows,
    StoreVersion,
    StoreVersionParser,
    distinct_versions,
)
from forecache.plugins.parity.stream_replay import (
    IndexedStream,
    NeededRows,
    StreamReplay,
    index_views,
    needed_rows_of,
    read_live_lookups,
)
from forecache.realtime.log.read import newest_day
from forecache.realtime.log.record import DAY, table_of
from forecache.realtime.release.folder import open_releases, read_release
from forecache.realtime.release.follow_lake import fetch_missing_releases
from forecache.realtime.release.load import load_release
from forecache.serve.store.publishing.worker_pool import ProcessPool, num_cores

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable


BATCH_ROWS = 1024
COLUMNS = (
    "request_id", "arrived_at", "request", "items", "release", "model_version", "features", "scores", "score_dtype",
    "answered_by", "item_answered_by", "ranking", "fallback_reason", "stores", "live",
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


_COLUMNS = ("release", "stores", "live")


@dataclass
class ReferencedVersions:
    releases: set[int] = field(default_factory=set)
    versions: set[StoreVersion] = field(default_factory=set)
    live: dict[str, NeededRows] = field(default_factory=dict)

    def add_needed_rows(self, more: Mapping[str, NeededRows]) -> None:
        for view, need in more.items():
            self.live[view] = self.live[view].merge(need) if view in self.live else need


def find_referenced_versions(settings: Settings, name: str, pieces: Sequence[LogRowGroup]) -> ReferencedVersions:
    """Find the references of the answers in some row groups of a log; one row group is in memory at a time."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    named = ReferencedVersions()
    filesystem = place_of(settings, table_of(name)).open()
    for piece in pieces:
        with open_data_file(filesystem, piece.path, table_of(name)) as source:
            file = pq.ParquetFile(source)
            # A file from before a column was added lacks it.
            columns = [column for column in _COLUMNS if column in file.schema_arrow.names]
            rows = file.read_row_group(piece.row_group, columns, use_threads=False)
        named.releases |= set(pc.unique(rows["release"]).to_pylist())
        stores = rows["stores"].combine_chunks()
        named.versions |= distinct_versions(stores)
        if "live" in columns:
            named.add_needed_rows(needed_rows_of(stores, rows["live"].combine_chunks()))
    return named


def contracts_of(settings: Settings, name: str, releases: Iterable[int]) -> dict[str, set[str]]:
    """Return by store of a view, or of its kept contract, the contracts that releases have for it."""
    found: dict[str, set[str]] = {}
    for number in releases:
        try:
            release = read_release(open_releases(settings, name), number)
        except ForecacheError:
            continue
        for lookup in release.lookups:
            for store in (lookup.view, kept_name(lookup.view, lookup.contract)):
                found.setdefault(store, set()).add(lookup.contract)
    return found


STAGE = "parity"
PARITY_TABLE = "parity_"
"""Name of the table of results, before the name of the real-time model."""
_INLINE_ROWS = 4_000
"""Up to so many rows one process is done before worker processes have started."""


@dataclass(frozen=True)
class _LogDay:
    """A day of a log at one version of its table."""

    settings: Settings
    name: str
    day: date
    table: "DeltaTable"
    files: Sequence[DataFile]


def check_parity(
    settings: Settings,
    name: str,
    day: date | None = None,
    *,
    sample: float = 1.0,
    processes: int | None = None,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Compute the answers that a real-time model logged on a day again, and compare every bit.

    No reader is needed. A version that its store has removed is read from the lake at its Delta version; the other
    versions are compared with the lake as well. Features of live views are merged again from the version and the rows
    of the stream's table up to the logged position.

    Args:
        day: Date in UTC; None: the newest one before today that has answers, else the newest.
        sample: Share of the requests, by a hash of their ids.

    Raises:
        NotFoundError: Nothing of the model was logged.
    """
    stage = Stage(settings, STAGE, name, run_id)
    report = replay_day(settings, name, day, sample=sample, processes=processes, progress=progress)
    version = _write_results(settings, report, run_id)
    seconds = time.perf_counter() - stage.started
    details = {**report.details(), "seconds_replay": report.seconds}
    kept = {key: details[key] for key in ("passed", "sentence", "requests", "equal", "differ", "not_recomputed")}
    table, rows = f"{PARITY_TABLE}{name}", report.found.requests
    done = StageOutcome(rows, kept, table, version)
    stage.record({report.day: done}, {report.day: str(report.log_version)}, seconds)
    return StageResult(
        stage=STAGE, subject=name, rows=rows, seconds=seconds, nights=(report.day,), table=table,
        delta_version=version, details=details,
    )  # fmt: skip


def replay_day(
    settings: Settings,
    name: str,
    day: date | None = None,
    *,
    sample: float = 1.0,
    processes: int | None = None,
    progress: Progress = no_progress,
) -> ParityReport:
    """Replay a day as `check_parity` does, without writing the result."""
    started = time.perf_counter()
    table = open_table(settings, table_of(name))
    files = active_files(table)
    chosen = day or newest_day(files)
    if chosen is None:
        raise NotFoundError(
            f"The request log of {name} has no answers.", remedy="Ask the model, and wait for the log's commit."
        )
    its_files = [file for file in files if file.partition[DAY] == chosen.isoformat()]
    logged = _LogDay(settings, name, chosen, table, its_files)
    pieces = list(_list_row_groups(logged))
    rows = sum(piece.rows for piece in pieces)
    workers = 0 if rows <= _INLINE_ROWS else min(processes or num_cores(), len(pieces))
    found = ReplayResult()
    with (
        tempfile.TemporaryDirectory(prefix="forecache-parity-") as folder,
        ProcessPool(workers, of="replaying") as pool,
    ):
        progress(f"Holding the stores of {rows:,} answers of {chosen} against the lake", 0.0)
        named = find_referenced_versions(settings, name, pieces)
        fetch_missing_releases(settings, name, named.releases)
        checks = _check_stores(logged, named, Path(folder), pool)
        kept = {check.version: check.kept for check in checks if check.kept is not None}
        job = ReplayJob(settings, name, kept, sample, index_views(settings, named.live, Path(folder), pool))

        def report_progress(count: int) -> None:
            progress(f"Computing {rows:,} answers of {chosen} again", count / len(pieces))

        try:
            for one in pool.map(
                compare_row_group, [{"job": job, "piece": piece} for piece in pieces], done=report_progress
            ):
                found.merge(one)
        finally:
            close_replay()  # for row groups that were compared in this process
    return ParityReport(name, chosen, table.version(), sample, found, checks, time.perf_counter() - started)


def _list_row_groups(logged: _LogDay) -> Iterator[LogRowGroup]:
    import pyarrow.parquet as pq

    filesystem = place_of(logged.settings, table_of(logged.name)).open()
    for file in sorted(logged.files, key=lambda each: each.path):
        with open_data_file(filesystem, file.path, table_of(logged.name)) as source:
            metadata = pq.read_metadata(source)
        for group in range(metadata.num_row_groups):
            yield LogRowGroup(file.path, group, metadata.row_group(group).num_rows)


def _check_stores(logged: _LogDay, named: ReferencedVersions, folder: Path, pool: ProcessPool) -> list[StoreCheck]:
    """Compare each version that the day's answers name with the lake."""
    contracts = contracts_of(logged.settings, logged.name, named.releases)
    jobs = [
        {
            "settings": logged.settings,
            "wanted": wanted,
            "contracts": sorted(contracts.get(wanted.name, ())),
            "folder": folder / str(number),
        }
        for number, wanted in enumerate(sorted(named.versions))
    ]
    return pool.map(check_store, jobs)


def _write_results(settings: Settings, report: ParityReport, run_id: str) -> int:
    """Replace the day's rows in one commit; if it is killed before, those of an earlier run remain."""
    from deltalake import Schema

    name = f"{PARITY_TABLE}{report.name}"
    seen = take_snapshot(settings, name, DAY)
    files = write_rows(result_rows(report), settings, name, partition_by=(DAY,))
    target = Target(settings, name, Schema.from_arrow(result_schema()), (DAY,), keep_log=False)
    inputs = {report.day: json.dumps(report.details(), sort_keys=True)}
    committed = replace_partitions(
        target, files, column=DAY, values=[report.day], seen=seen, inputs=inputs, note={"run_id": run_id}
    )  # fmt: skip
    return committed.version
