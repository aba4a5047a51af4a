"""Runs that a process executes itself, without a run launcher, as `forecache run` does: their heartbeat, their death.

The process renews a tag of its run, by which other processes and machines tell a running run from a killed one.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import dagster as dg

from forecache.kit.process.identity import ProcessIdentity, identify_process
from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import RUN_HEARTBEAT
from resources.dagster_internals import (
    MAX_RETRIES_TAG,
    PARENT_RUN_ID_TAG,
    CheckRunHealthResult,
    DefaultRunLauncher,
    RunLauncher,
    WorkerStatus,
)

logger = logging.getLogger("forecache")
# Dagster hides tags with this prefix from people.
PROCESS_TAG = ".dagster/forecache_process"
HEARTBEAT_TAG = ".dagster/forecache_heartbeat"
RENEW_S = RUN_HEARTBEAT.every_s
SILENT_S = 25.0
"""A process of another machine is dead once this one has watched for so long that it does not renew its tag.

Clocks are not compared. After an outage of the database the watch begins anew, so that all can renew their tags first.
"""
_LOOK_S = 30.0
"""Longest time between two looks at a tag; a longer one, such as during an outage, begins the watch anew."""
_watched: dict[tuple[str, str], tuple[float, float]] = {}
"""Of processes of other machines, by their heartbeat: since when this process has seen it, and when it looked last."""
_GOING_ON = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED]


def process_tags() -> dict[str, str]:
    """Tags of a run that this process will execute. Dagster does not retry it; who called the process does."""
    return {PROCESS_TAG: identify_process().to_text(), HEARTBEAT_TAG: _unix_time_text(), MAX_RETRIES_TAG: "0"}


def is_own_run(tags: Mapping[str, str]) -> bool:
    """Tell if a process executes the run itself. A re-execution has its tags, and a launcher."""
    return PROCESS_TAG in tags and PARENT_RUN_ID_TAG not in tags


@contextmanager
def renew_heartbeat(
    instance: dg.DagsterInstance, run_id: str, report_wait: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Renew the heartbeat of a run while the block executes it, and close abandoned runs that it may be waiting for.

    `report_wait` gets a sentence at each renewal at which the run waits for a place in a pool.
    """

    def renew() -> None:
        instance.add_run_tags(run_id, {HEARTBEAT_TAG: _unix_time_text()})
        close_abandoned_runs(instance)
        for wait in find_waits(instance, run_id):
            report_wait(wait)

    def report(error: Exception) -> None:  # the database may be unavailable for a while; the run goes on
        logger.warning("The heartbeat of the run %s was not renewed: %s", run_id, error)

    with PeriodicThread(RUN_HEARTBEAT, renew, every_s=lambda: RENEW_S, report=report):
        yield


def is_process_gone(tags: Mapping[str, str]) -> bool:
    """Look for the process that executes a run itself; True if it is dead, False also for a run of a launcher."""
    if not is_own_run(tags):
        return False
    process = ProcessIdentity.from_text(tags[PROCESS_TAG])
    if process.is_of_this_machine:
        return process.is_dead
    return _watch(tags) >= SILENT_S


def _watch(tags: Mapping[str, str]) -> float:
    """Look at a heartbeat; returns for how many seconds this process has seen that it is not renewed."""
    now, key = time.monotonic(), (tags[PROCESS_TAG], tags[HEARTBEAT_TAG])
    for other, (_, looked_at) in list(_watched.items()):
        if now - looked_at > _LOOK_S:
            _watched.pop(other, None)
    since, _ = _watched.get(key, (now, now))
    _watched[key] = since, now
    return now - since


def close_abandoned_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs as failed whose own process was killed, and free the places in pools that ended runs left taken.

    Such a run would count as running for ever, and others would wait for its place; a daemon does the same.
    """
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_GOING_ON)):
        if not is_process_gone(run.tags):
            continue
        # Its process may have ended since the runs were listed, after it recorded how the run ended.
        latest = instance.get_run_by_id(run.run_id)
        if latest is not None and latest.status in _GOING_ON:
            instance.report_run_failed(run, message="The process of this run was killed.")
    taken = list(instance.event_log_storage.get_concurrency_run_ids())
    for run in instance.get_runs(filters=dg.RunsFilter(run_ids=taken)) if taken else ():
        if run.is_finished:
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def find_waits(instance: dg.DagsterInstance, run_id: str) -> Iterator[str]:
    """Say for each pool in which a step of a run waits for a place who has the places."""
    storage = instance.event_log_storage
    for pool in sorted(storage.get_concurrency_keys()):
        info = storage.get_concurrency_info(pool)
        if run_id not in info.pending_run_ids or not info.active_run_ids:
            continue
        holders = instance.get_runs(filters=dg.RunsFilter(run_ids=list(info.active_run_ids)))
        yield f"waiting for a place in the pool {pool}, taken by {', '.join(map(_describe_holder, holders))}"


def _describe_holder(run: dg.DagsterRun) -> str:
    if not is_own_run(run.tags):
        return f"run {run.run_id[:8]}"
    process = ProcessIdentity.from_text(run.tags[PROCESS_TAG])
    silent_s = time.time() - float(run.tags[HEARTBEAT_TAG])
    silent = f", silent for {silent_s:.0f} s" if silent_s > 3 * RENEW_S else ""
    return f"run {run.run_id[:8]} (process {process.pid} on {process.host}{silent})"


class OwnRunHealth(RunLauncher):
    """A mixin for run launchers, listed before the launcher's class: reports the health of runs without a launcher.

    Dagster's run monitoring asks the launcher about every run, and marks runs as failed that it does not know.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        if is_own_run(run.tags):
            if is_process_gone(run.tags):
                return CheckRunHealthResult(WorkerStatus.FAILED, "Its process was killed.")
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if super().supports_check_run_worker_health:
            return super().check_run_worker_health(run)
        return CheckRunHealthResult(WorkerStatus.RUNNING, "Its launcher does not look at workers.")

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not is_own_run(run.tags):
            return super().terminate(run_id)
        process = ProcessIdentity.from_text(run.tags[PROCESS_TAG])
        about = f"Process {process.pid} on {process.host} executes this run: interrupt it there."
        self._instance.report_engine_event(about, run, cls=type(self))
        return False


class LocalRunLauncher(OwnRunHealth, DefaultRunLauncher):
    """Dagster's default launcher, which also reports the health of runs that their own process executes."""


def _unix_time_text() -> str:
    return f"{time.time():.0f}"
