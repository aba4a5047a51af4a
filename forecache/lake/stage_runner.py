"""The stage runner, stages of a table with a partition for each date, and the lock for one run at a time on a table.

A stage works if its inputs differ from those of its last record, and then records what it did. The work is committed
before it is recorded: a stage that is killed in between finds its own work at the next run, or does it again; neither
changes the result.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from forecache.base.plugins import find_hooks
from forecache.base.prices import core_cost
from forecache.base.results import Progress, StageResult
from forecache.base.settings import Settings
from forecache.base.steps import WorkNeeded, begin_work, is_looking
from forecache.kit.delta.files import DataFile
from forecache.kit.delta.log import active_files, group_by_partition
from forecache.kit.delta.partitions import TableSnapshot, find_committed_partitions
from forecache.kit.delta.tables import commit_partitions, open_table, table_exists, table_version
from forecache.kit.installation import hold_exclusively
from forecache.kit.lease import Lease, local_lease
from forecache.kit.process.usage import CpuMeter, peak_memory_bytes
from forecache.lake.ledger import StageRecord, append_records, assume_records, last_record, last_records

if TYPE_CHECKING:
    from deltalake import Schema


_Night = TypeVar("_Night", date, date | None)


@dataclass(frozen=True)
class StageOutcome:
    """Result of a stage's work on an as-of date, as the ledger records it; `details` can be written as JSON."""

    rows: int
    details: Mapping[str, Any] = field(default_factory=dict)
    table: str = ""
    delta_version: int = -1  # -1: it wrote none
    seconds: float | None = None  # None: an equal share of the time of all nights of the call


NightsDone = Mapping[date, StageOutcome]


@dataclass(frozen=True)
class Stage:
    """A stage of one pipeline, source or table (`subject`), in one run."""

    settings: Settings
    name: str
    subject: str
    run_id: str = ""
    started: float = field(default_factory=time.perf_counter, compare=False)
    meter: CpuMeter = field(default_factory=CpuMeter, compare=False, repr=False)

    def result(
        self,
        rows: int,
        *,
        nights: Iterable[date],
        skipped: bool,
        details: Mapping[str, Any],
        table: str = "",
        version: int | None = None,
    ) -> StageResult:
        """The result of the stage, whose time began when this object was made."""
        seconds = time.perf_counter() - self.started
        return StageResult(self.name, self.subject, rows, seconds, tuple(nights), table, version, skipped, details)

    def run_once(
        self,
        inputs: str,
        work: Callable[[], StageOutcome],
        *,
        night: date | None = None,
        rebuild: bool = False,
        usable: Callable[[StageRecord], bool] = lambda _: True,
    ) -> tuple[StageRecord, bool]:
        """Do the work unless the last record has the same inputs, a text that names all that the result depends on, and
        its result is still usable; returns the record, and whether it was skipped.
        """
        known = last_record(self.settings, self.name, self.subject, night)
        if known is not None and not rebuild and known.inputs == inputs and usable(known):
            return known, True
        begin_work(f"{self.name} of {self.subject}", stale=StaleWork(self, {night: inputs}, {night: known}))
        started = time.perf_counter()
        done = work()
        return self.record({night: done}, {night: inputs}, time.perf_counter() - started)[night], False

    def run_nights(
        self,
        inputs: Mapping[date, str],
        work: Callable[[Sequence[date]], NightsDone],
        *,
        at_once: int,
        rebuild: bool = False,
        find: Callable[[Mapping[date, str]], NightsDone] | None = None,
        progress: Callable[[Sequence[date], float], None] = lambda _, __: None,
    ) -> tuple[dict[date, StageRecord], list[date]]:
        """Do the work, of at most `at_once` nights together, for those whose last record has other inputs.

        `find` gets the inputs of the nights to do, and returns those whose data an earlier run committed but did not
        record. `progress` is called with the nights that come next, and the share that is done.

        Returns:
            All records, and the nights that were done.
        """
        before = last_records(self.settings, self.name, self.subject, nights=inputs)
        pending = find_stale(inputs, before, rebuild=inputs if rebuild else ())
        if pending:
            stale = StaleWork(self, {night: inputs[night] for night in pending}, before)
            begin_work(f"{self.name} of {self.subject} for {format_nights(pending)}", stale=stale)
        records = {night: before[night] for night in inputs if night not in pending}
        if find is not None and not rebuild:
            records |= self.record(find({night: inputs[night] for night in pending}), inputs, 0.0)
            pending = [night for night in pending if night not in records]
        for first in range(0, len(pending), at_once):
            some = pending[first : first + at_once]
            progress(some, first / len(pending))
            started = time.perf_counter()
            done = work(some)
            records |= self.record(done, inputs, time.perf_counter() - started)
        return records, pending

    def record_changes(self, inputs: Mapping[date, str], found: NightsDone, seconds: float) -> None:
        """Record findings about nights, except those whose last record has the same inputs and details."""
        before = last_records(self.settings, self.name, self.subject, nights=found) if found else {}
        news = {
            night: done
            for night, done in found.items()
            if night not in before or not _is_same(before[night], inputs[night], done)
        }
        self.record(news, inputs, seconds * len(news) / max(1, len(found)))

    def record(
        self, done: Mapping[_Night, StageOutcome], inputs: Mapping[_Night, str], seconds: float
    ) -> dict[_Night, StageRecord]:
        """Append ledger rows for nights that took `seconds` together, or for None of a stage without nights.

        Of nights that did work, `details["cost"]` has the core-seconds that they took, unless executors of a cluster
        worked, and the number of nights that shared them.
        """
        costs = self._measure_costs(done, seconds)
        rows = {
            night: StageRecord(
                self.name,
                self.subject,
                night,
                inputs[night],
                each.table,
                each.delta_version,
                each.rows,
                seconds / len(done) if each.seconds is None else each.seconds,
                {**each.details, "cost": {**each.details.get("cost", {}), **costs[night]}} if costs else each.details,
                run_id=self.run_id,
            )
            for night, each in done.items()
        }
        append_records(self.settings, list(rows.values()))
        return rows

    def _measure_costs(self, done: Mapping[_Night, StageOutcome], seconds: float) -> dict[_Night, dict[str, Any]]:
        """By night its share of what was used since the last record; {} if the nights did no work."""
        took_s = {night: seconds / len(done) if each.seconds is None else each.seconds for night, each in done.items()}
        total_s = sum(took_s.values())
        if not total_s:
            return {}
        core_s, more = self.meter.take_s(), {"nights": len(done), "peak_bytes": peak_memory_bytes()}
        if core_s is None:
            return dict.fromkeys(took_s, more)
        shares = {night: core_s * own_s / total_s for night, own_s in took_s.items()}
        return {night: {**core_cost(self.settings, share), **more} for night, share in shares.items()}


@dataclass(frozen=True)
class StaleWork:
    """The work that a process finds if it only looks: the inputs of what is to do, and the last records."""

    stage: Stage
    inputs: Mapping[Any, str]  # by as-of date; None: of a stage without as-of dates
    before: Mapping[Any, StageRecord | None]


def _is_same(before: StageRecord, inputs: str, done: StageOutcome) -> bool:
    found = {name: value for name, value in before.details.items() if name != "cost"}
    return (before.inputs, found) == (inputs, done.details)


def find_stale(
    inputs: Mapping[date, str],
    before: Mapping[date | None, StageRecord],
    *,
    rebuild: Collection[date] = (),
    usable: Callable[[StageRecord], bool] = lambda _: True,
) -> list[date]:
    """The nights to do, ascending: those to rebuild, and those whose last record has other inputs or is not usable."""
    return sorted(
        night
        for night, text in inputs.items()
        if night in rebuild or night not in before or before[night].inputs != text or not usable(before[night])
    )


def find_stale_work(stage: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """The work that a stage names before it begins; None if it is current, `WorkNeeded` if it names none."""
    try:
        stage(*arguments, **more)
    except WorkNeeded as needed:
        return needed if needed.stale is None else needed.stale
    return None


def assume_done(work: StaleWork, table: str) -> None:
    """Let later stages of a look find the records of some work, with the version that its table would have."""
    stage = work.stage
    version = table_version(stage.settings, table) + 1 if table_exists(stage.settings, table) else 0
    assume_records(
        stage.settings,
        [
            StageRecord(stage.name, stage.subject, day, text, table, version, 0, 0.0)
            for day, text in work.inputs.items()
        ],
    )


def format_nights(nights: Sequence[date]) -> str:
    """Text for messages: the first and the last of ascending nights."""
    return str(nights[0]) if len(nights) == 1 else f"{nights[0]} to {nights[-1]}"


def hold_table_lock(settings: Settings, table: str, run_id: str, progress: Progress) -> AbstractContextManager[Lease]:
    """Hold a table for one run of all machines at a time; a second run waits, and then usually finds nothing to do.

    That saves work. What is right does not depend on it: the commit decides, see `forecache.kit.delta.partitions`.
    """
    if is_looking():
        return nullcontext(local_lease(f"tables/{table}", "look"))
    return hold_exclusively(
        settings,
        f"tables/{table}",
        action=f"writes {table}",
        run_id=run_id,
        report=lambda holder: progress(f"waiting for {holder}", None),
    )


def write_stale_partitions(
    stage: Stage,
    table: str,
    inputs: Mapping[date, str],
    write: "Callable[[Sequence[date]], tuple[Schema, Sequence[DataFile]]]",
    *,
    column: str,
    seen: TableSnapshot,
    at_once: int,
    rebuild: bool,
    progress: Progress,
    about: str,
    details: Mapping[str, Any] | None = None,
) -> tuple[dict[date, StageRecord], list[date]]:
    """Write and commit the partitions whose inputs differ from those of their last record; see `Stage.run_nights`.

    `write` returns the columns and the files of some dates of the partition column. `seen` is the table as it was
    before the inputs were read, so that newer rows of another run stay. `about` is the subject of progress messages.
    """
    settings = stage.settings

    def describe(versions: Mapping[date, int], details: Mapping[str, Any] | None = None) -> NightsDone:
        rows = partition_rows(settings, table, list(versions), column=column) if versions else {}
        return {day: StageOutcome(rows[day], details or {}, table, version) for day, version in versions.items()}

    def build(some: Sequence[date]) -> NightsDone:
        done = commit_partitions(
            write(some),
            settings,
            table,
            column=column,
            values=some,
            seen=seen,
            inputs={day: inputs[day] for day in some},
            run_id=stage.run_id,
        )
        return describe(done.versions, details)

    def find(stale: Mapping[date, str]) -> NightsDone:
        adopt_partitions(stage, table, stale, column=column, seen=seen, progress=progress)
        written = find_committed_partitions(settings, table, column=column, inputs=stale)
        return describe({day: writer.version for day, writer in written.items()})

    return stage.run_nights(
        inputs,
        build,
        at_once=at_once,
        rebuild=rebuild,
        find=find,
        progress=lambda some, share: progress(f"{about} for {format_nights(some)}", share),
    )


def adopt_partitions(
    stage: Stage, table: str, stale: Mapping[date, str], *, column: str, seen: TableSnapshot, progress: Progress
) -> dict[date, Mapping[str, Any]]:
    """Let plug-ins commit dates whose rows were computed elsewhere from the inputs of `stale`; these are then found.

    Returns the details that are recorded of them there.
    """
    details: dict[date, Mapping[str, Any]] = {}
    for adopt in find_hooks("adopt_partitions"):
        details |= adopt(stage, table, stale, column=column, seen=seen, progress=progress)
    return details


def adopt_table(
    stage: Stage, table: str, inputs: str, *, state: Sequence[str] = (), progress: Progress
) -> StageOutcome | None:
    """Let plug-ins replace a table by one that was made elsewhere from these inputs; None if none has it.

    `state` names the files of the lake's state that are written together with the table.
    """
    adopted = (adopt(stage, table, inputs, state=state, progress=progress) for adopt in find_hooks("adopt_table"))
    return next((outcome for outcome in adopted if outcome is not None), None)


def partition_rows(settings: Settings, table: str, days: Sequence[date], *, column: str) -> dict[date, int]:
    """Rows of each date's partition, from the log's statistics; 0 for a missing one."""
    files = group_by_partition(active_files(open_table(settings, table)), column)
    return {day: sum(file.rows for file in files.get(day.isoformat(), ())) for day in days}
