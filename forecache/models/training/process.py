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
from forecache.base.errors import ConflictError, ForecacheError
from forecache.base.files import lock
from forecache.base.plugins import load_hook
from forecache.base.settings import Settings
from forecache.declare import Training
from forecache.kit.process.child import end_process
from forecache.kit.process.wakes import TRAINING_EVENTS
from forecache.models.training.spec import ERROR_FILE, METRICS_FILE, RESULT_FILE, TrainingSpec

LOG_FILE = "torchrun.log"
GRACE_S = 35.0
"""Seconds that workers may take to save and exit after a stop signal, or after their launcher was killed."""

OnEvent = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainingPlan:
    """The training of a pipeline's model on this machine, as planned by the plug-in for that kind of model."""

    training: Training  # the declared one, with what the machine decides
    lanes: int
    resumes: bool  # it leaves checkpoints
    workers: "Callable[[], str]"  # for people, such as "in one process"
    command: Callable[[TrainingSpec], list[str]]
    environment: Callable[[], dict[str, str]]  # of the process at its start


@contextmanager
def lock_folder(folder: Path, doing: str, *, wait_s: float = 0.0) -> Iterator[int]:
    """Lock the folder; yields the lock's file descriptor. The lock lasts as long as any process has that open.

    ConflictError, which says what is `doing` there, if another process holds it for longer than `wait_s`: workers of a
    killed launcher save first.
    """

    def conflict_error(_: str) -> ConflictError:
        return ConflictError(
            f"Another process is {doing} in {folder}.", remedy="Wait for it, or stop it, and run again."
        )

    with lock(folder / "lock", refused=conflict_error, wait_s=wait_s) as descriptor:
        yield descriptor


@dataclass(frozen=True)
class RunLock:
    descriptors: tuple[int, ...] = ()  # of the locks, which last as long as any process has them open
    lease: Any = None  # on checkpoints in a bucket; its `taken_by` is the process that took it over

    def stop_if_lost(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill the training at once if its lease was taken over, because it must not save a checkpoint any more;
        ConflictError."""
        if self.lease is None or self.lease.taken_by is None:
            return
        os.killpg(process.pid, signal.SIGKILL)
        raise ConflictError(
            f"The training was stopped: its lease had expired and was taken over by {self.lease.taken_by}.",
            remedy="The other process continues from the last checkpoint. Check why this machine could not reach it.",
        )


@contextmanager
def lock_run(
    settings: Settings, spec: TrainingSpec, *, run_id: str = "", report: Callable[[str], None]
) -> Iterator[RunLock]:
    """Lock the run of a specification; `report` gets a sentence if there is something to wait for.

    ConflictError, with the holder's `run_id`, if another process trains in the same folder, or writes the same
    checkpoints; UnavailableError if these are in a bucket and `obstore` is not installed.
    """
    with lock_folder(spec.folder, "training", wait_s=GRACE_S) as descriptor:
        if not spec.checkpoints:
            yield RunLock((descriptor,))
            return
        lock_checkpoints = load_hook("torch", "lock_checkpoints")
        with lock_checkpoints(settings, spec.checkpoints, run_id=run_id, report=report) as lock_:
            yield RunLock((descriptor, *lock_.descriptors), lock_.lease)


def run_process(
    spec: TrainingSpec, arguments: list[str], environment: Mapping[str, str], run_lock: RunLock, *, on_event: OnEvent
) -> dict[str, Any]:
    """Run a command that trains a specification and reports in its folder; returns its `result.json`.

    `on_event` is called with every event that the workers report, in order; an exception in it stops the run.
    ConflictError if another process has taken over the lease of the checkpoints; ForecacheError if the training failed
    or was stopped, with the reason and the log's place.
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
            pass_fds=run_lock.descriptors,  # so that the process keeps the lock if this one is killed
        )
        try:
            _follow(process, spec.folder, on_event, run_lock)
        finally:
            end_process(process, within_s=GRACE_S)  # the workers save and exit
    if not (spec.folder / RESULT_FILE).is_file():
        raise _failure(spec, process.returncode)
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
        "FORECACHE_HOME": str(settings.home_path),
        "FORECACHE_PROJECT": settings.project,
        "FORECACHE_LAKE": settings.lake_uri,
        "FORECACHE_STORAGE_OPTIONS": json.dumps(settings.storage_options),
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
    """Every event that the workers of a run reported, over all its attempts."""
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
