"""Runs that a process executes itself, without a run launcher, as `forecache run` does: their heartbeat, their death.

The process renews a tag of its run, by which other processes and machines tell a running run from a killed one.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import dagster as dg
import psutil

from forecache.kit.process.periodic import PeriodicThread
from forecache.kit.process.wakes import RUN_HEARTBEAT
from resources.dagster_internals import CheckRunHealthResult, DefaultRunLauncher, RunLauncher, WorkerStatus

logger = logging.getLogger("forecache")
# Dagster hides tags with this prefix from people.
PROCESS_TAG = ".dagster/forecache_process"
HEARTBEAT_TAG = ".dagster/forecache_heartbeat"
RENEW_S = RUN_HEARTBEAT.every_s
SILENT_S = 600.0
"""A process of another machine that has not renewed its tag for this long is dead; clocks must differ by less."""
_CLOCK_S = 60.0
"""A process that began later than this after a heartbeat is not the one that renewed it."""
_GOING_ON = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED]


def process_tags() -> dict[str, str]:
    """Tags of a run that this process will execute."""
    return {PROCESS_TAG: f"{_machine_id()} {os.getpid()}", HEARTBEAT_TAG: _unix_time_text()}


@contextmanager
def renew_heartbeat(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """Renew the heartbeat of a run while the block executes it."""

    def renew() -> None:
        instance.add_run_tags(run_id, {HEARTBEAT_TAG: _unix_time_text()})

    def report(error: Exception) -> None:  # the database may be unavailable for a while; the run goes on
        logger.warning("The heartbeat of the run %s was not renewed: %s", run_id, error)

    with PeriodicThread(RUN_HEARTBEAT, renew, every_s=lambda: RENEW_S, report=report):
        yield


def is_process_gone(tags: Mapping[str, str]) -> bool:
    """Look for the process that executes a run itself; True if it is dead, False also for a run without such tags."""
    machine, _, pid = tags.get(PROCESS_TAG, "").rpartition(" ")
    heartbeat = float(tags.get(HEARTBEAT_TAG, "inf"))
    if machine == _machine_id():
        return not _is_running(int(pid), heartbeat)
    return time.time() - heartbeat > SILENT_S


def close_abandoned_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs as failed whose own process was killed: they would count as running for ever."""
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=_GOING_ON)):
        if not is_process_gone(run.tags):
            continue
        # Its process may have ended since the runs were listed, after it recorded how the run ended.
        latest = instance.get_run_by_id(run.run_id)
        if latest is not None and latest.status in _GOING_ON:
            instance.report_run_failed(run, message="The process of this run was killed.")


class OwnRunHealth(RunLauncher):
    """A mixin for run launchers, listed before the launcher's class: reports the health of runs without a launcher.

    Dagster's run monitoring asks the launcher about every run, and marks runs as failed that it does not know.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        if PROCESS_TAG in run.tags:
            if is_process_gone(run.tags):
                return CheckRunHealthResult(WorkerStatus.FAILED, "Its process was killed.")
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if super().supports_check_run_worker_health:
            return super().check_run_worker_health(run)
        return CheckRunHealthResult(WorkerStatus.RUNNING, "Its launcher does not look at workers.")


class LocalRunLauncher(OwnRunHealth, DefaultRunLauncher):
    """Dagster's default launcher, which also reports the health of runs that their own process executes."""


def _is_running(pid: int, heartbeat: float) -> bool:
    """Look for a process of this machine; False if it ended, or if another one got its number later."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < heartbeat + _CLOCK_S
    except psutil.NoSuchProcess:
        return False


def _machine_id() -> str:
    """The host and, on Linux, the namespace of its process ids."""
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _unix_time_text() -> str:
    return f"{time.time():.0f}"
