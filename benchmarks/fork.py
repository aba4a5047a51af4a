"""Time and bytes of a trial's fork of ten million rows, as `forecache try` makes it, in a process of its own.

    python benchmarks/fork.py [--rows 10000000] [--days 30] [--folder FOLDER] [--bucket [--latency-ms 30]]

Three tables (raw, features, predictions) with the rows in partitions by day, a ledger with a row for each day and
stage, and a registry with a model. With --bucket the lake is on a MinIO server of this machine; a second fork goes
through a proxy that counts the requests and answers each of them so much later. Writes no result.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import numpy as np  # noqa: E402 - after the path
import pyarrow as pa  # noqa: E402
from deltalake import write_deltalake  # noqa: E402
from fault_proxy import Distance, fault_proxy  # noqa: E402
from store_services import minio_server  # noqa: E402

from forecache.base.settings import Settings, load_settings, trial_settings  # noqa: E402
from forecache.kit.installation import open_lake  # noqa: E402
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
            options = settings.storage_options
            write_deltalake(
                settings.table_uri(table), found, mode="append", partition_by=["as_of"], storage_options=options
            )
            record = StageRecord("stage", table, day, "inputs", table, number, each, 1.0, {"details": "x" * 200})
            append_records(settings, [record])
    client = connect_mlflow(settings)
    client.create_registered_model("model")
    run = client.create_run(client.create_experiment("model"))
    client.create_model_version("model", "file:///nowhere", run.info.run_id)


def measure(home: Path) -> None:
    """Fork, and print what it took: without and with the start of Python and its imports."""
    base, name = load_settings("", home=home), f"of-{os.getpid()}"
    began = time.perf_counter()
    fork(base, name)
    took_s = time.perf_counter() - began
    print(f"fork: {took_s:.3f} s, {own_bytes(trial_settings(base, name)):,} bytes of its own", flush=True)


def measure_process(settings: Settings, **storage_options: str) -> None:
    """Fork in a process of its own."""
    options = json.dumps({**settings.storage_options, **storage_options})
    places = {"FORECACHE_LAKE": settings.lake, "FORECACHE_STORAGE_OPTIONS": options, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    command = [sys.executable, __file__, "--fork", str(settings.home_path)]
    subprocess.run(command, check=True, env={**os.environ, **places})
    print(f"with the start of its process: {time.perf_counter() - began:.2f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--folder", help="where to write; default: among the temporary files")
    parser.add_argument("--bucket", action="store_true", help="with the lake in a bucket")
    parser.add_argument("--latency-ms", type=float, default=30.0, help="of each request to the bucket")
    parser.add_argument("--fork", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fork:
        measure(given.fork)
        return 0
    with tempfile.TemporaryDirectory(dir=given.folder) as folder, ExitStack() as servers:
        home = Path(folder) / "home"
        settings, endpoint = load_settings("", home=home), ""
        if given.bucket:
            options = servers.enter_context(minio_server(Path(folder) / "minio", "cloud"))
            endpoint = options["AWS_ENDPOINT_URL"]
            settings = load_settings("", home=home, lake="s3://cloud/lake", storage_options=options)
        write_base(settings, given.rows, given.days)
        sizes = open_lake(settings).sizes().values()
        tables = f"{given.rows:,} rows in {len(TABLES)} tables of {given.days} days"
        print(f"base: {tables}, {sum(sizes):,} bytes, {len(sizes)} files", flush=True)
        measure_process(settings)
        if given.bucket:
            far = Distance(latency_s=given.latency_ms / 1000)
            with fault_proxy(endpoint, distance=far) as proxy:
                measure_process(settings, AWS_ENDPOINT_URL=proxy.address)
                print(f"that one through the proxy: {proxy.requests()}")
            return 0
        # The same by du, which counts folders, and the files of the base once.
        command = ["du", "-s", "-B1", str(home), f"{home}-trials"]
        shared = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"by du: {int(shared.stdout.splitlines()[1].split()[0]):,} bytes beside the base")
    return 0


if __name__ == "__main__":
    sys.exit(main())
