"""Entry point of each training worker, which torchrun's agent calls in a process of its own."""

from pathlib import Path

from forecache.kit.process.child import end_with_parent
from forecache.models.training.spec import RESULT_FILE, load_spec, write_error


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
