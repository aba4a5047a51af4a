"""An additional node of a training run: `python -m forecache.plugins.torch.join PIPELINE`.

One node runs `forecache train` and hosts the rendezvous; every other node runs this. It waits for a run's specification
beside the checkpoints, or in a home that the nodes share, runs workers for it, starts them again after a preemption,
and exits when the run is done.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from forecache.base.errors import ForecacheError, SettingsError, UnavailableError
from forecache.base.folders import Folder
from forecache.base.settings import Settings, load_settings
from forecache.kit.process.child import end_process
from forecache.kit.process.wakes import TRAINING_JOIN
from forecache.models.training.process import GRACE_S
from forecache.models.training.run_files import RunFiles, open_training_root, read_node_state
from forecache.models.training.spec import ERROR_FILE, SPEC_FILE, TrainingSpec, read_spec
from forecache.plugins.torch.launch import command, worker_environment


def join(settings: Settings, pipeline: str, *, wait_s: float = 3600.0) -> Path:
    """Run workers for the pipeline's training run until it is done; returns the run's folder.

    SettingsError without a rendezvous or several nodes, UnavailableError if no run appeared within `wait_s` seconds,
    ForecacheError if it failed.
    """
    if settings.training_nodes == "1" or not settings.training_rendezvous:
        raise SettingsError(
            "This node cannot join: FORECACHE_TRAINING_NODES or FORECACHE_TRAINING_RENDEZVOUS is not set.",
            remedy="Set them to the same values on all nodes, such as 1:4 and the first node's host:29400.",
        )
    root = open_training_root(settings)
    while True:
        deadline = time.monotonic() + wait_s  # of each wait: the run before it may have gone on for longer
        while (spec := _fetch_open_run(settings, root, pipeline)) is None:
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"No training run of {pipeline!r} appeared in {root} within {wait_s:.0f} s.",
                    remedy="Start `forecache train` on the first node, with the same FORECACHE_TRAINING_CHECKPOINTS or "
                    "the same FORECACHE_HOME.",
                )
            time.sleep(TRAINING_JOIN.every_s)
        state = _work(settings, root, spec)
        if state == "failed":
            raise ForecacheError(
                f"Training of {pipeline!r} failed.", remedy="See the output of the node that runs `forecache train`."
            )
        if state == "done":
            return spec.folder


def _fetch_open_run(settings: Settings, root: Folder, pipeline: str) -> TrainingSpec | None:
    """The specification of the run that nodes may join, copied to this node's folder; None if there is none."""
    run, state = read_node_state(root, pipeline)
    found = root.read(f"{pipeline}/{run}/{SPEC_FILE}") if state == "open" else None
    if found is None:
        return None
    folder = settings.training_path / pipeline / run
    spec = replace(read_spec(found[0]), run_dir=str(folder))
    if spec.checkpoints:
        folder.mkdir(parents=True, exist_ok=True)
        spec.save()
    return spec


def _work(settings: Settings, root: Folder, spec: TrainingSpec) -> str:
    """Run workers until the run is over; returns its state then, "" if another run has taken its place."""

    def read_state() -> str:
        run, state = read_node_state(root, spec.pipeline)
        return state if run == spec.folder.name else ""

    files = RunFiles(settings, spec)
    while (state := read_state()) == "open":
        if spec.checkpoints:  # else the folder and the error in it are the first node's
            (spec.folder / ERROR_FILE).unlink(missing_ok=True)
        process = subprocess.Popen(command(settings, spec, host=False), env=worker_environment(settings))
        try:
            while process.poll() is None and read_state() == "open":
                time.sleep(TRAINING_JOIN.every_s)
                files.share_error()
        finally:
            end_process(process, within_s=GRACE_S)
        files.share_error()
        time.sleep(TRAINING_JOIN.every_s)
    return state


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="forecache.plugins.torch.join", description="Add this node to a training run."
    )
    parser.add_argument("pipeline")
    parser.add_argument("--wait-s", type=float, default=3600.0, help="seconds to wait for a run (default 3600)")
    chosen = parser.parse_args(arguments)
    try:
        join(load_settings(), chosen.pipeline, wait_s=chosen.wait_s)
    except ForecacheError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
