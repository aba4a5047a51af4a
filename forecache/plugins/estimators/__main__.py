"""The process that fits an estimator: `python -m forecache.plugins.estimators --spec spec.json`."""

import argparse
import os
import sys
import time
from pathlib import Path

from forecache.kit.process.child import end_with_parent, reset_sigterm
from forecache.models.training.spec import RESULT_FILE, load_spec, write_error


def main() -> int:
    """Fit the estimator of a specification; returns the exit code."""
    launched_at = time.time()
    reset_sigterm()
    parser = argparse.ArgumentParser(prog="forecache.plugins.estimators")
    parser.add_argument("--spec", type=Path, required=True, help="spec.json of the run")
    spec = load_spec(parser.parse_args().spec)
    if (spec.folder / RESULT_FILE).is_file():
        return 0
    # An orphan must not overwrite the model of the process that replaces it.
    end_with_parent()
    os.environ["RANK"] = "0"
    from forecache.plugins.estimators.fit import fit_estimator

    try:
        fit_estimator(spec, launched_at=launched_at)
    except Exception as error:
        write_error(spec, error)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
