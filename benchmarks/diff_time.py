"""How long `forecache diff` takes to compare 10 million rows with 10 million others, and in how much memory.

PYTHONPATH=. .venv/bin/python benchmarks/diff_time.py [ROWS]      about two minutes and 2 GB of disk for 10 million rows

Every value of half of the columns changes, a third of the rest, and 1,000 keys are new and as many gone; no file is
shared. CPU seconds are those of the comparing process alone, which do not grow if others use the machine.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from forecache.base.settings import load_settings
from forecache.plugins.diff.compare_partitions import compare_partitions
from forecache.plugins.diff.partition import Partition

FEATURES, MOVED, FILES = 10, 1_000, 8
NIGHT = date(2026, 1, 1)


def main() -> None:
    """Write both sides, compare them in a process of its own, and then a side with itself."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder) / name for name in ("before", "after")]
        context = multiprocessing.get_context("spawn")
        for home in homes:
            _run(context, write, home, rows, home.name == "after")
        _run(context, compare, homes[0], homes[1])
        _run(context, compare, homes[0], homes[0])


def _run(context: multiprocessing.context.SpawnContext, function: object, *arguments: object) -> None:
    process = context.Process(target=function, args=arguments)  # type: ignore[arg-type]
    process.start()
    process.join()
    assert process.exitcode == 0


def write(home: Path, rows: int, is_after: bool) -> None:
    """Write a table of keys, a score and features, in another order on the second side."""
    import duckdb
    import pyarrow as pa

    from forecache.kit.delta.tables import append_rows

    settings = load_settings("", home=home)
    features = ", ".join(
        f"(hash(i + {place}) % 1000000 / 1e4{_moved(place) if is_after else ''})::FLOAT AS f{place}"
        for place in range(FEATURES)
    )
    score = f"(hash(i) % 1000003 / 1000003.0) * {1.01 if is_after else 1.0} AS score"
    first = MOVED if is_after else 0
    with duckdb.connect(config={"memory_limit": "1GB"}) as connection:
        for part in range(FILES):
            low, high = first + rows * part // FILES, first + rows * (part + 1) // FILES
            order = "ORDER BY hash(i) % 64" if is_after else ""
            found = connection.sql(
                f"SELECT i::BIGINT AS customer, {score}, {features} FROM range({low}, {high}) t(i) {order}"
            ).to_arrow_table()
            days = pa.array([NIGHT], pa.date32()).take(pa.array([0] * found.num_rows))
            append_rows(settings, "features_x", found.append_column("as_of", days), partition_by=["as_of"])


def _moved(place: int) -> str:
    return " * 1.1" if place % 2 else f" + (hash(i * 7 + {place}) % 3 = 0)::INT"


def compare(before: Path, after: Path) -> None:
    """Compare both sides, and print what it took."""
    sides = [Partition(load_settings("", home=home), "features_x", NIGHT) for home in (before, after)]
    started = time.perf_counter()
    found = compare_partitions(sides[0], sides[1], ("customer",), answers=("score",))
    wall, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{found.rows_before:,} rows against {found.rows_after:,}: {found.changed:,} changed, {found.added:,} added, "
        f"{found.gone:,} gone; {wall:.1f} s, {used.ru_utime + used.ru_stime:.1f} CPU s, "
        f"{used.ru_maxrss / 1024:,.0f} MB at most"
    )


if __name__ == "__main__":
    main()
