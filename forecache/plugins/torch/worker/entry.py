"""Entry point of each training worker, which torchrun's agent calls in a process of its own."""

import json
import os
import traceback
from pathlib import Path

from forecache.base.errors import ForecacheError
from forecache.kit.process.child import end_with_parent
from forecache.models.training.spec import ERROR_FILE, RESULT_FILE, TrainingSpec, load_spec


def work(spec_path: str, launched_at: float) -> None:
    """Run one worker until it is done or asked to stop.

    Args:
        spec_path: Path of the run's `spec.json`.
        launched_at: When torchrun's agent started, in seconds since 1970.
    """
    spec = load_spec(Path(spec_path))
    if (spec.folder / RESULT_FILE).is_file():
        return
    # An orphan must not continue to write checkpoints next to the worker that replaces it.
    end_with_parent()
    from forecache.plugins.torch.worker.run import is_lost_peer, run_worker

    try:
        run_worker(spec, launched_at=launched_at)
    except Exception as error:
        if not is_lost_peer(error):
            write_error(spec, error)
        raise


def write_error(spec: TrainingSpec, error: Exception) -> None:
    """Write `error.json` for the parent, atomically; the first rank to fail wins."""
    description = {
        "type": type(error).__name__,
        "message": error.message if isinstance(error, ForecacheError) else str(error),
        "remedy": error.remedy if isinstance(error, ForecacheError) else "",
        "traceback": traceback.format_exc(),
        "rank": int(os.environ["RANK"]),
    }
    unfinished = spec.folder / f".{ERROR_FILE}.{os.getpid()}"
    unfinished.write_text(json.dumps(description))
    try:
        os.link(unfinished, spec.folder / ERROR_FILE)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()
