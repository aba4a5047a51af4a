"""An additional node of a training run: `python -m forecache.plugins.torch.join PIPELINE`.

One node runs `forecache train` and hosts the rendezvous; every other node runs this. It waits for a run's specification
in the shared home folder, runs workers for it, starts them again after a preemption, and exits when the run is done.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from forecache.base.errors import ForecacheError, SettingsError, UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.kit.process.child import end_process
from forecache.kit.process.wakes import TRAINING_JOIN
from forecache.models.training.process import GRACE_S
from forecache.models.training.spec import ERROR_FILE, RESULT_FILE, SPEC_FILE, TrainingSpec, load_spec
from forecache.plugins.torch.launch import command, worker_environment


def join(settings: Settings, pipeline: str, *, wait_s: float = 3600.0) -> Path:
    """Run workers for the pipeline's training run until it is done; returns the run's folder.

    Args:
        wait_s: Seconds to wait for a run; a run that was specified at most so long ago is joined, too.

    Raises:
        SettingsError: The settings name no rendezvous, or a single node.
        UnavailableError: No run appeared within `wait_s` seconds.
        ForecacheError: The run failed.
    """
    if settings.training_nodes == "1" or not settings.training_rendezvous:
        raise SettingsError(
            "This node cannot join: FORECACHE_TRAINING_NODES or FORECACHE_TRAINING_RENDEZVOUS is not set.",
            remedy="Set them to the same values on all nodes, such as 1:4 and the first node's host:29400.",
        )
    earliest = time.time() - wait_s
    deadline = time.monotonic() + wait_s
    while (spec := _open_run(settings.training_path / pipeline, earliest)) is None:
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"No training run of {pipeline!r} appeared in {settings.training_path} within {wait_s:.0f} s.",
                remedy="Start `forecache train` on the first node, with the same FORECACHE_HOME.",
            )
        time.sleep(TRAINING_JOIN.every_s)
    while not _is_over(spec.folder):
        process = subprocess.Popen(command(settings, spec, host=False), env=worker_environment(settings))
        try:
            while process.poll() is None and not _is_over(spec.folder):
                time.sleep(TRAINING_JOIN.every_s)
        finally:
            end_process(process, within_s=GRACE_S)
        time.sleep(TRAINING_JOIN.every_s)
    if not (spec.folder / RESULT_FILE).is_file():
        raise ForecacheError(
            f"Training of {pipeline!r} failed.", remedy="See the output of the node that runs `forecache train`."
        )
    return spec.folder


def _open_run(folder: Path, earliest: float) -> TrainingSpec | None:
    """The newest unfinished run that was specified since `earliest`, in seconds since 1970."""
    found = [path for path in folder.glob(f"*/{SPEC_FILE}") if not _is_over(path.parent)]
    fresh = [path for path in found if path.stat().st_mtime >= earliest]
    return load_spec(max(fresh, key=lambda path: path.stat().st_mtime)) if fresh else None


def _is_over(folder: Path) -> bool:
    return (folder / RESULT_FILE).is_file() or (folder / ERROR_FILE).is_file()


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
