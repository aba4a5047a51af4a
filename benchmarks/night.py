"""`make bench-night`: the whole main job at ten million keys, beside a PySpark script and DuckDB with LightGBM by hand.

python benchmarks/night.py                           1 and 10 million keys, and days more of a small project
python benchmarks/night.py --only next_day           those days alone: `forecache run` of the demo's churn by LightGBM
python benchmarks/night.py --keys 300000             a smaller night; its history is ten times the new events
python benchmarks/night.py --size tiny               try the benchmark itself; its figures mean nothing
python benchmarks/night.py --report                  measure nothing, print what results/night.json holds

Ten days of history are ingested and their last night is run before; what is measured is the day after: its CSV file
ingested, checked, turned to 20 features of every key, checked, scored, checked, published and verified. Every contender
runs in a process of its own on two cores, and all scores are compared in the end.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from _common import command, results
from _night import next_days, report

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".forecache" / "bench-night"
SIZES = {"tiny": (2_000, 20_000), "full": (1_000_000, 10_000_000)}
"""Keys, of which there are as many new events, and ten times as many before."""


def measure(sizes: list[int], which: list[str]) -> dict[str, Any]:
    return {"runs": [run(keys, which) for keys in sizes]}


def run(keys: int, which: list[str]) -> dict[str, Any]:
    """One night of every contender, over the same history, and whether their scores are the same."""
    from _night.data import NIGHT

    shutil.rmtree(WORK / "run", ignore_errors=True)
    home, landed = WORK / "run" / "home", WORK / "run" / f"{NIGHT}.csv"
    found: dict[str, Any] = {"keys": keys, "events": keys}
    try:
        prepare(keys, home, landed)
        found["before"] = _job("forecache_side", home, "prepare")
        os.link(landed, home / "landing" / "purchases" / landed.name)
        found["forecache"] = _job("forecache_side", home, "night")
        for peer in which:
            folder = WORK / "run" / peer
            shutil.copytree(WORK / "run" / "by-hand", folder, copy_function=os.link)
            found[peer] = _job("by_hand", peer, folder, landed)
            found[peer]["scores"] = require_equal(home, folder)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(WORK / "run", ignore_errors=True)
    return found


def prepare(keys: int, home: Path, landed: Path) -> None:
    """The files of all days, the model, and the history of the scripts by hand, a Delta table."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from _night.data import DAYS, NIGHT, booster, rows_of_day, write_csv
    from deltalake import Schema, convert_to_deltalake

    by_hand = landed.parent / "by-hand"
    for number, day in enumerate(DAYS):
        rows = rows_of_day(number, keys=keys, events=keys)
        write_csv(landed if day == NIGHT else home / "landing" / "purchases" / f"{day}.csv", rows)
        if day != NIGHT:
            (folder := by_hand / "history" / f"event_day={day}").mkdir(parents=True)
            kept = rows[0].schema.set(1, pa.field("at", pa.timestamp("us", "UTC")))
            with pq.ParquetWriter(folder / "history.parquet", kept) as writer:
                for each in rows:
                    writer.write_table(each.cast(kept))
    booster().save_model(str(by_hand / "model.txt"))
    partitions = Schema.from_arrow(pa.schema([("event_day", pa.date32())]))
    convert_to_deltalake(str(by_hand / "history"), partition_by=partitions, partition_strategy="hive")


def require_equal(home: Path, folder: Path) -> int:
    """The number of scores, of which Forecache's and a script's are the same to the bit."""
    import duckdb
    from _night.data import NIGHT, PURCHASE

    from forecache.base.settings import load_settings
    from forecache.kit.delta.dataset import open_dataset
    from forecache.kit.delta.tables import open_table

    predictions = open_table(load_settings(home=home), PURCHASE.prediction_table)
    theirs = next(iter([*folder.glob("export.parquet"), folder / "export" / "*.parquet"]))
    with duckdb.connect(config={"memory_limit": "4GB", "temp_directory": str(folder / "compared")}) as connection:
        connection.register("ours", open_dataset(predictions, partitions=[("as_of", "=", NIGHT.isoformat())]))
        equal = "ours.probability = theirs.probability"
        [(count, same)] = connection.execute(
            f"SELECT count(*), count(*) FILTER ({equal}) FROM ours FULL JOIN '{theirs}' AS theirs "
            f"ON ours.customer_id = theirs.customer_id WHERE coalesce(as_of, DATE '{NIGHT}') = DATE '{NIGHT}'"
        ).fetchall()
    if count != same:
        raise AssertionError(f"{count - same:,} of {count:,} scores differ from those in {theirs}")
    return int(count)


def _job(module: str, *arguments: object) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])}
    words = [sys.executable, "-m", f"_night.{module}", *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT / "benchmarks", env=environment, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {arguments} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{module} {arguments}: {found}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = command.options(__doc__, "night", report.SECTIONS)
    parser.add_argument("--keys", type=int, nargs="+", help="instead of the size's")
    parser.add_argument("--beside", nargs="*", choices=list(report.PEERS), default=list(report.PEERS))
    arguments = parser.parse_args()
    path, failed = results.folder_of(arguments.size, WORK / "results", arguments.results) / "night.json", []
    if not arguments.report:
        command.measure_this_tree()
        sizes = arguments.keys or SIZES[arguments.size]
        measures = {
            "next_day": lambda: next_days.measure(WORK / "small", arguments.size),
            "night": lambda: measure(list(sizes), arguments.beside),
        }
        failed = results.measure_sections(command.chosen(arguments, measures), measures, path=path, size=arguments.size)
    found = results.load(path)
    print(results.text(found, report.SECTIONS, report.rows_of))
    return command.exit_code(failed)


if __name__ == "__main__":
    sys.exit(main())
