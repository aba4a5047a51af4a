"""Time and bytes of a trial's fork of ten million rows, as `forecache try` makes it, in a process of its own.

    python benchmarks/fork.py [--rows 10000000] [--days 30] [--folder FOLDER]

Three tables (raw, features, predictions) with the rows in partitions by day, a ledger with a row for each day and
stage, and a registry with a model. Writes no result.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402 - after the path
import pyarrow as pa  # noqa: E402
from deltalake import write_deltalake  # noqa: E402

from forecache.base.settings import Settings, load_settings, trial_settings  # noqa: E402
from forecache.lake.ledger import StageRecord, append_records  # noqa: E402
from forecache.models.tracking.client import connect_mlflow  # noqa: E402
from forecache.plugins.trials.trial import fork, own_bytes  # noqa: E402

TABLES = ("raw_events", "features_model", "predictions_model")
FIRST = date(2026, 1, 1)


def write_base(settings: Settings, rows: int, days: int) -> None:
    """Write the tables, a commit for each day, the ledger and a model's version."""
    rng, each = np.random.default_rng(1), rows // len(TABLES) // days
    for table in TABLES:
        for number in range(days):
            day = FIRST + timedelta(days=number)
            columns = {f"x{place}": rng.random(each) for place in range(4)}
            found = pa.table({"key": np.arange(each), "as_of": pa.repeat(pa.scalar(day), each), **columns})
            write_deltalake(settings.table_uri(table), found, mode="append", partition_by=["as_of"])
            record = StageRecord("stage", table, day, "inputs", table, number, each, 1.0, {"details": "x" * 200})
            append_records(settings, [record])
    client = connect_mlflow(settings)
    client.create_registered_model("model")
    run = client.create_run(client.create_experiment("model"))
    client.create_model_version("model", "file:///nowhere", run.info.run_id)


def measure(home: Path) -> None:
    """Fork, and print what it took: without and with the start of Python and its imports."""
    base = load_settings("", home=home)
    began = time.perf_counter()
    fork(base, "x")
    print(f"fork: {time.perf_counter() - began:.3f} s, {own_bytes(trial_settings(base, 'x')):,} bytes of its own")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--folder", help="where to write; default: among the temporary files")
    parser.add_argument("--fork", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fork:
        measure(given.fork)
        return 0
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        home = Path(folder) / "home"
        write_base(load_settings("", home=home), given.rows, given.days)
        size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
        files = sum(path.is_file() for path in home.rglob("*"))
        print(f"base: {given.rows:,} rows in {len(TABLES)} tables of {given.days} days, {size:,} bytes, {files} files")
        began = time.perf_counter()
        command = [sys.executable, __file__, "--fork", str(home)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        print(f"with the start of its process: {time.perf_counter() - began:.2f} s")
        # The same by du, which counts folders, and the files of the base once.
        shared = subprocess.run(["du", "-s", "-B1", home, f"{home}-trials"], capture_output=True, text=True, check=True)
        print(f"by du: {int(shared.stdout.splitlines()[1].split()[0]):,} bytes beside the base")
    return 0


if __name__ == "__main__":
    sys.exit(main())
