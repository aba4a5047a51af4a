"""Entry point of a worker: `python -m torch.distributed.run ... -m forecache.training.worker --spec spec.json`."""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from forecache.errors import ForecacheError
from forecache.training.agent import end_with_parent
from forecache.training.spec import ERROR_FILE, RESULT_FILE, TrainingSpec, load_spec


def main() -> int:
    """Run one worker; returns its exit code."""
    launched_at = time.time()
    parser = argparse.ArgumentParser(prog="forecache.training.worker")
    parser.add_argument("--spec", type=Path, required=True, help="spec.json of the run")
    spec = load_spec(parser.parse_args().spec)
    if (spec.folder / RESULT_FILE).is_file():
        return 0
    # An orphan must not go on writing checkpoints beside the worker that replaces it.
    end_with_parent(signal.SIGKILL)
    from forecache.training.worker.run import is_lost_peer, run_worker

    try:
        run_worker(spec, launched_at=launched_at)
    except Exception as error:
        if not is_lost_peer(error):
            write_error(spec, error)
        raise
    return 0


def write_error(spec: TrainingSpec, error: Exception) -> None:
    """Leave what went wrong for the parent, whole or not at all; the first rank to fail wins."""
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


if __name__ == "__main__":
    sys.exit(main())
