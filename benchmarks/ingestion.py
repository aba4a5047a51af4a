"""A CSV file into Delta: ingested, judged and checked, beside plain readers of Spark, DuckDB and Polars, and dlt.

bash benchmarks/peers_env.sh small dlt
PYTHONPATH=. .venv/bin/python benchmarks/ingestion.py --rows 10000000      about 5 minutes

Each runs in a process of its own on one core, with one thread, in turn with the others. What counts is the CPU time of
the work, commit included, after imports and the start of Spark; the memory is the most that the process and its JVM
have held. Of bad rows (a text for the amount), the peers keep what their reader gives: Spark the row's text
(permissive mode), DuckDB a list of rejects, Polars a null; dlt, which has no judgement of values for columns, gets
what DuckDB reads. dlt runs in an environment of its own.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DAY = date(2026, 1, 1)
NAMES = ["customer_id", "at", "amount", "shop"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--bad", type=float, nargs="+", default=[0.0, 0.01], help="shares of bad rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--work", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        _measure(arguments.work[0], Path(arguments.work[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for share in arguments.bad:
            file = Path(folder) / f"{DAY}.csv"
            _write(file, arguments.rows, share)
            print(f"{arguments.rows:,} rows, {file.stat().st_size / 1e6:.0f} MB, {share:.0%} bad", flush=True)
            found: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
            for _ in range(arguments.repeats):
                for name in arguments.only:
                    found[name].append(_run(name, file))
            for name, all_figures in found.items():
                cpu_s = statistics.median(each["cpu_s"] for each in all_figures)
                seconds = statistics.median(each["seconds"] for each in all_figures)
                peak_mb = max(each["peak_mb"] for each in all_figures)
                print(
                    f"  {name:10} {arguments.rows / cpu_s:>10,.0f} rows per CPU second ({cpu_s:.1f} s, "
                    f"{seconds:.1f} s on the clock), {peak_mb:,.0f} MB",
                    flush=True,
                )


def _write(file: Path, num_rows: int, share: float) -> None:
    import numpy as np

    dice = np.random.default_rng(1)
    with file.open("w") as sink:
        sink.write(",".join(NAMES) + "\n")
        for start in range(0, num_rows, 500_000):
            count = min(500_000, num_rows - start)
            seconds = np.sort(dice.integers(0, 86_400, count)).tolist()
            amounts = (dice.integers(0, 100_000, count) / 100).tolist()
            for customer, second, amount, shop, lot in zip(
                dice.integers(0, 10**7, count).tolist(),
                seconds,
                amounts,
                dice.integers(0, 1000, count).tolist(),
                dice.random(count).tolist(),
                strict=True,
            ):
                clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
                sink.write(f"{customer},{DAY} {clock},{'x' if lot < share else amount},shop-{shop}\n")


def _run(name: str, file: Path) -> dict[str, float]:
    peers = [str(ROOT), str(ROOT / ".tools/peers"), os.environ.get("PYTHONPATH", "")]
    python, path = (ROOT / ".tools/dlt/bin/python", "") if name == "dlt" else (sys.executable, ":".join(peers))
    done = subprocess.run(
        [str(python), __file__, "--work", name, str(file)],
        env={**os.environ, "PYTHONPATH": path, "POLARS_MAX_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _measure(name: str, file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        work = WORKS[name](file, Path(folder))
        cpu_s, started = _cpu_s(), time.perf_counter()
        work()
        print(json.dumps({
            "cpu_s": _cpu_s() - cpu_s, "seconds": time.perf_counter() - started, "peak_mb": _peak_mb(),
        }))  # fmt: skip
        sys.stdout.flush()
        os._exit(0) if name != "spark" else None


def _processes() -> list[Path]:
    """This process and its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [Path(f"/proc/{pid}") for pid in found]


def _cpu_s() -> float:
    ticks = 0
    for process in _processes():
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _peak_mb() -> float:
    texts = [(process / "status").read_text() for process in _processes()]
    return sum(int(found[1]) for text in texts if (found := re.search(r"VmHWM:\s+(\d+)", text))) / 1024


Work = Callable[[], object]


def _prepare_forecache(file: Path, folder: Path) -> Work:
    from forecache.base.settings import load_settings
    from forecache.declare import Column, Source
    from forecache.lake.quality.pending_files import ProcessRun, ingest_pending

    kinds = {"customer_id": "bigint", "at": "timestamp", "amount": "double", "shop": "string"}
    columns = tuple(Column(name, kind, required=True) for name, kind in kinds.items())  # type: ignore[arg-type]
    source = Source("big", columns=columns, event_time="at", start=DAY)
    settings = load_settings(home=str(folder))
    landing = folder / "landing" / source.name
    landing.mkdir(parents=True)
    os.link(file, landing / file.name)
    return lambda: ingest_pending(ProcessRun(settings), source, last=DAY)


def _prepare_spark(file: Path, folder: Path) -> Work:
    from forecache.base.settings import load_settings
    from forecache.kit.spark.session import spark_session

    spark = spark_session(load_settings(home=str(folder), spark_master="local[1]", spark_driver_memory="2g"))
    schema = "customer_id bigint, at timestamp, amount double, shop string, _corrupt_record string"
    rows = spark.read.csv(
        str(file), header=True, schema=schema, mode="PERMISSIVE", timestampFormat="yyyy-MM-dd HH:mm:ss"
    )
    return lambda: rows.write.format("delta").save(str(folder / "raw"))


def _duckdb_query(file: Path) -> str:
    kinds = "{'customer_id': 'BIGINT', 'at': 'TIMESTAMPTZ', 'amount': 'DOUBLE', 'shop': 'VARCHAR'}"
    return f"FROM read_csv('{file}', header = true, columns = {kinds}, store_rejects = true)"


def _prepare_duckdb(file: Path, folder: Path) -> Work:
    import duckdb
    from deltalake import write_deltalake

    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute("SET timezone = 'UTC'")

    def work() -> None:
        rows = connection.sql(_duckdb_query(file))
        write_deltalake(str(folder / "raw"), rows.to_arrow_reader(1 << 17))

    return work


def _prepare_polars(file: Path, folder: Path) -> Work:
    import polars as pl

    kinds = {"customer_id": pl.Int64, "at": pl.String, "amount": pl.Float64, "shop": pl.String}

    def work() -> None:
        rows = pl.scan_csv(file, schema=kinds, ignore_errors=True)
        moments = pl.col("at").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", time_zone="UTC", strict=False)
        rows.with_columns(moments).sink_delta(str(folder / "raw"))

    return work


def _prepare_dlt(file: Path, folder: Path) -> Work:
    import dlt
    import duckdb

    one = ("EXTRACT__WORKERS", "NORMALIZE__WORKERS", "LOAD__WORKERS")
    os.environ.update({**dict.fromkeys(one, "1"), "RUNTIME__DLTHUB_TELEMETRY": "false"})
    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute("SET timezone = 'UTC'")

    @dlt.resource(name="raw", table_format="delta")
    def rows() -> Any:
        yield from connection.sql(_duckdb_query(file)).to_arrow_reader(1 << 17)

    lake = dlt.destinations.filesystem(bucket_url=(folder / "lake").as_uri())
    pipeline = dlt.pipeline("big", pipelines_dir=str(folder / "pipelines"), destination=lake, dataset_name="landed")
    return lambda: pipeline.run(rows()).raise_on_failed_jobs()


WORKS: dict[str, Callable[[Path, Path], Work]] = {
    "forecache": _prepare_forecache,
    "spark": _prepare_spark,
    "duckdb": _prepare_duckdb,
    "polars": _prepare_polars,
    "dlt": _prepare_dlt,
}

if __name__ == "__main__":
    main()
