"""The process that trains: started in the locked folder of its run, followed by its events, its failure explained."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from forecache.base import errors
from forecache.base.errors import ForecacheError
from forecache.base.files import lock
from forecache.base.settings import Settings
from forecache.base.steps import training_step
from forecache.declare import Training
from forecache.kit.lease import Lease, hold_lease, local_lease
from forecache.kit.process.child import end_process
from forecache.kit.process.wakes import TRAINING_EVENTS
from forecache.models.training.spec import ERROR_FILE, METRICS_FILE, RESULT_FILE, TrainingSpec, open_run_files

LOG_FILE = "torchrun.log"
LEASE_NAME = "training"
GRACE_S = 35.0
"""Seconds that workers may take to save and exit after a stop signal, or after their launcher was killed."""
_PATIENCE_S = 10.0  # for a renewal of the lease

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainingPlan:
    """The training of a pipeline's model on this machine, as planned by the plug-in for that kind of model."""

    training: Training  # the declared one, with what the machine decides
    lanes: int
    workers: "Callable[[], str]"  # for people, such as "in one process"
    command: Callable[[TrainingSpec], list[str]]
    environment: Callable[[], dict[str, str]]  # of the process at its start


@dataclass(frozen=True)
class RunLock:
    descriptor: int  # of the lock of the run's folder, which lasts as long as any process has it open
    lease: Lease  # on what all machines find of the run

    def stop_if_lost(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill the training at once if its lease was taken over, as its work would be in vain; LeaseLostError."""
        if self.lease.is_taken_over:
            os.killpg(process.pid, signal.SIGKILL)
            self.lease.check()


@contextmanager
def lock_run(
    settings: Settings,
    spec: TrainingSpec,
    *,
    action: str = "training",
    run_id: str = "",
    report: Callable[[str], None],
    lease: Lease | None = None,
) -> Iterator[RunLock]:
    """Lock the run of a specification as soon as no other process trains it; `report` gets a sentence if there is one
    to wait for. `lease`: one that is held already and includes the run.

    UnavailableError if the run's files are in a bucket and `obstore` is not installed.
    """
    action = f"{action} {spec.pipeline}"

    def report_holder(holder: str) -> None:
        report(f"waiting for {holder}")

    run = f", run {run_id}" if run_id else ""
    holder = f"process {os.getpid()} ({action}{run})"
    # Also held by the workers of a launcher that was killed, until they have saved.
    with lock(spec.folder / "lock", holder=holder, waiting=report_holder) as descriptor:
        if lease is not None or not spec.checkpoints:
            yield RunLock(descriptor, lease or local_lease(LEASE_NAME, action))
            return
        shared = open_run_files(settings, spec.checkpoints, patience_s=_PATIENCE_S)
        with hold_lease(shared, LEASE_NAME, action=action, run_id=run_id, report=report_holder) as held:
            yield RunLock(descriptor, held)


def run_process(
    spec: TrainingSpec,
    arguments: list[str],
    environment: Mapping[str, str],
    run_lock: RunLock,
    *,
    on_event: OnEvent,
    fetch_error: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run a command that trains a specification and reports in its folder; returns its `result.json`.

    `on_event` is called with every event that the workers report, in order; an exception in it stops the run.
    `fetch_error` puts an error that another node reports into the folder. LeaseLostError if another process has taken
    over the run; ForecacheError if the training failed or was stopped, with the reason and the log's place.
    """
    (spec.folder / ERROR_FILE).unlink(missing_ok=True)
    spec.save()
    with (spec.folder / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            arguments,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
            pass_fds=[run_lock.descriptor],  # so that the process keeps the lock if this one is killed
        )
        try:
            _follow(process, spec.folder, on_event, run_lock)
        finally:
            end_process(process, within_s=GRACE_S)  # the workers save and exit
    if not (spec.folder / RESULT_FILE).is_file():
        fetch_error()
        raise _failure(spec, process.returncode)
    training_step("result written")
    result: dict[str, Any] = json.loads((spec.folder / RESULT_FILE).read_text())
    return result


def process_environment(
    settings: Settings, *, threads: int, own: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """The environment of a training process: this one's, the settings, a library's own variables, and the number of
    threads of each process if OMP_NUM_THREADS is not set."""
    paths = [path for path in sys.path if path]
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([os.getcwd(), *paths])),
        **settings.process_variables(),
        **own,
    }


def _follow(process: "subprocess.Popen[bytes]", folder: Path, on_event: OnEvent, run_lock: RunLock) -> None:
    metrics = folder / METRICS_FILE
    metrics.touch()
    with metrics.open() as lines:
        lines.seek(0, os.SEEK_END)
        while True:
            ended = process.poll() is not None
            for event in _new_events(lines):
                on_event(event)
            # An error in the user's code would recur at every restart, so the run ends at once.
            if ended or (folder / ERROR_FILE).is_file():
                return
            run_lock.stop_if_lost(process)
            time.sleep(TRAINING_EVENTS.every_s)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Every event that the workers of a run reported, over all its attempts; none without the file."""
    if not path.is_file():
        return []
    with path.open() as lines:
        return list(_new_events(lines))


def _new_events(lines: Any) -> Iterator[dict[str, Any]]:
    while True:
        position = lines.tell()
        line = lines.readline()
        if not line.endswith("\n"):
            lines.seek(position)
            return
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue  # a worker was killed, or the disk was full, in the middle of a line


def _failure(spec: TrainingSpec, return_code: int) -> ForecacheError:
    log = spec.folder / LOG_FILE
    path = spec.folder / ERROR_FILE
    if not path.is_file():
        how = f"by signal {-return_code}" if return_code < 0 else f"with exit code {return_code}"
        kept = any(event["event"] == "checkpoint" for event in read_events(spec.folder / METRICS_FILE))
        return ForecacheError(
            f"Training of {spec.pipeline!r} was ended {how} before it was done"
            f"{'; its last checkpoint is kept' if kept else ''}.",
            remedy=f"Run it again to {'go on from there' if kept else 'start anew'}; the log is {log}.",
        )
    error = json.loads(path.read_text())
    known = getattr(errors, error["type"], None)
    if known is not None:
        failure: ForecacheError = known(error["message"], remedy=f"{error['remedy']} The log is {log}.".strip())
        return failure
    return ForecacheError(
        f"Training of {spec.pipeline!r} failed with {error['type']}: {error['message']}.",
        remedy=f"The log is {log}.",
    )
