"""The time of a check of an as-of date by five expectations, by DuckDB and by Great Expectations on Spark, of one run.

    python benchmarks/check_time.py [--rows 10000] [--repeats 7]

Both check the same table: it has rows, keys and scores are present, keys unique, scores from 0 to 1. Prints medians of
wall and processor seconds after imports and a first check, which starts Spark. Writes no result.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from forecache.base.settings import load_settings
from forecache.declare import AS_OF, expect
from forecache.kit.delta.tables import append_rows, read_table
from forecache.kit.spark.session import spark_session
from forecache.lake.quality.validate import validate
from forecache.lake.quality.verdicts import check_nights

NIGHT = date(2026, 1, 1)
EXPECTATIONS = [
    expect("expect_table_row_count_to_be_between", min_value=1),
    expect("expect_column_values_to_not_be_null", column="id"),
    expect("expect_column_values_to_not_be_null", column="score"),
    expect("expect_compound_columns_to_be_unique", column_list=["id", AS_OF]),
    expect("expect_column_values_to_be_between", column="score", min_value=0, max_value=1),
]


def measure(check: Callable[[int], object], repeats: int) -> dict[str, float]:
    wall, processor = [], []
    for number in range(repeats + 1):
        began, before = time.perf_counter(), time.process_time()
        check(number)
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - before)
    return {"wall_s": round(statistics.median(wall[1:]), 3), "processor_s": round(statistics.median(processor[1:]), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="forecache-check-") as home:
        settings, rows = load_settings(home=home), arguments.rows
        scores = np.random.default_rng(0).random(rows)
        columns = {AS_OF: pa.array([NIGHT] * rows, pa.date32()), "id": np.arange(rows).astype(str), "score": scores}
        append_rows(settings, "scores", pa.table(columns), partition_by=[AS_OF])
        spark = spark_session(settings)

        def check_with_duckdb(number: int) -> None:
            state = {NIGHT: f"state-{number}"}
            found = check_nights(settings, "scores", EXPECTATIONS, column=AS_OF, states=state)
            report = found[NIGHT]
            assert (report.success, report.rows) == (True, rows)

        def check_with_spark(number: int) -> None:
            report = validate(read_table(spark, settings, "scores"), EXPECTATIONS, name="scores")
            assert (report.success, report.rows) == (True, rows)

        print(json.dumps({
            "rows": rows,
            "duckdb, with its record in the ledger": measure(check_with_duckdb, arguments.repeats),
            "great expectations on spark, of this process alone": measure(check_with_spark, arguments.repeats),
        }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
