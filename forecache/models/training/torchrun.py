"""Run a training specification under torchrun as a subprocess, follow its events, and explain a failure."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forecache.base import errors
from forecache.base.errors import ForecacheError, SettingsError
from forecache.base.settings import Settings
from forecache.kit.process.child import end_process
from forecache.kit.process.wakes import TRAINING_EVENTS
from forecache.models.training.devices import gpu_environment, num_workers
from forecache.models.training.exclusive.run_lock import GRACE_S, RunLock, lock_run
from forecache.models.training.spec import ERROR_FILE, METRICS_FILE, RESULT_FILE, SPEC_FILE, TrainingSpec

LOG_FILE = "torchrun.log"

OnEvent = Callable[[dict[str, Any]], None]


def run_torchrun(
    settings: Settings, spec: TrainingSpec, *, on_event: OnEvent, threads: int | None = None, gpu: int | None = None
) -> dict[str, Any]:
    """Lock the specification's run, execute it and return its `result.json`; see `run_process`.

    Raises:
        ConflictError: Another process trains in the same folder, or writes the same checkpoints.
        ForecacheError: As `run_process`.
    """

    def report(message: str) -> None:
        on_event({"event": "warning", "message": message})

    with lock_run(settings, spec, report=report) as lock:
        return run_process(settings, spec, command(settings, spec), lock, on_event=on_event, threads=threads, gpu=gpu)


def run_process(
    settings: Settings,
    spec: TrainingSpec,
    arguments: list[str],
    lock: RunLock,
    *,
    on_event: OnEvent,
    threads: int | None = None,
    gpu: int | None = None,
) -> dict[str, Any]:
    """Run a command that trains a specification and reports in its folder; returns its `result.json`.

    Args:
        lock: The run's lock.
        on_event: Called with every event that the workers report, in order; an exception in it stops the run.
        threads: Threads per worker if OMP_NUM_THREADS is not set; None: the number of cores divided by the workers.
        gpu: The only GPU that the workers may use; None: all.

    Raises:
        ConflictError: Another process has taken over the lease of the checkpoints.
        ForecacheError: The training failed or was stopped; the message says why and where the log is.
    """
    (spec.folder / ERROR_FILE).unlink(missing_ok=True)
    spec.save()
    with (spec.folder / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            arguments,
            stdout=log,
            stderr=log,
            env=worker_environment(settings, threads=threads, gpu=gpu),
            start_new_session=True,
            pass_fds=lock.descriptors,  # so that torchrun keeps the lock if this process is killed
        )
        try:
            _follow(process, spec.folder, on_event, lock)
        finally:
            end_process(process, within_s=GRACE_S)  # the workers save and exit
    if not (spec.folder / RESULT_FILE).is_file():
        raise _failure(spec, process.returncode)
    result: dict[str, Any] = json.loads((spec.folder / RESULT_FILE).read_text())
    return result


def command(settings: Settings, spec: TrainingSpec, *, host: bool = True) -> list[str]:
    """The torchrun command line.

    Args:
        host: Whether this node hosts the rendezvous; exactly one of several nodes does.

    Raises:
        SettingsError: There are several nodes and no rendezvous.
    """
    several = settings.training_nodes != "1"
    if several and not settings.training_rendezvous:
        raise SettingsError(
            f"FORECACHE_TRAINING_NODES is {settings.training_nodes!r}, and FORECACHE_TRAINING_RENDEZVOUS is not set.",
            remedy="Set it to the same value on all nodes, such as the first node's host:29400.",
        )
    return [
        *(sys.executable, "-m", "forecache.plugins.torch.agent"),
        f"--nnodes={settings.training_nodes}",
        f"--nproc-per-node={num_workers(settings)}",
        f"--max-restarts={settings.training_max_restarts}",
        "--rdzv-backend=c10d",
        f"--log-dir={spec.folder / 'torchelastic'}",  # by default every run leaves a folder in /tmp
        f"--rdzv-endpoint={settings.training_rendezvous if several else 'localhost:0'}",
        f"--rdzv-id={spec.pipeline}",
        *((f"--rdzv-conf=is_host={int(host)}",) if several else ("--local-addr=localhost",)),
        str(spec.folder / SPEC_FILE),
    ]


def estimator_command(spec: TrainingSpec) -> list[str]:
    """The command line that fits the estimator of a specification, in one process."""
    return [sys.executable, "-m", "forecache.models.training.estimator", "--spec", str(spec.folder / SPEC_FILE)]


def worker_environment(settings: Settings, *, threads: int | None = None, gpu: int | None = None) -> dict[str, str]:
    """The workers' environment: this process's, the settings, and variables for safe restarts and equal results."""
    threads = threads or max(1, (os.cpu_count() or 1) // num_workers(settings))
    paths = [path for path in sys.path if path]
    own = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([os.getcwd(), *paths])),
        "FORECACHE_HOME": str(settings.home_path),
        "FORECACHE_PROJECT": settings.project,
        "FORECACHE_LAKE": settings.lake_uri,
        "FORECACHE_STORAGE_OPTIONS": json.dumps(settings.storage_options),
        # Without this a restart after SIGKILL hangs in init_process_group (pytorch#135712).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    defaults = {"OMP_NUM_THREADS": str(threads)}
    if settings.training_nodes == "1":
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    alone = {} if gpu is None else gpu_environment(gpu, os.environ)
    return {**defaults, **os.environ, **own, **alone}


def _follow(process: "subprocess.Popen[bytes]", folder: Path, on_event: OnEvent, lock: RunLock) -> None:
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
            lock.stop_if_lost(process)
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
