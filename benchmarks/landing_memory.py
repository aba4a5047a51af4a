"""How much memory reading one large landing file takes: `python benchmarks/landing_memory.py --gigabytes 2`.

A process of its own reads a file of each format as a Spark worker does, and says the most memory that it ever held.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROW = "customer-{:012d},2026-01-01,{}.25,some text that a purchase has beside it\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--formats", nargs="+", default=["csv", "jsonl", "parquet"])
    arguments = parser.parse_args()
    for suffix in arguments.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"2026-01-01.{suffix}"
            _write(path, int(arguments.gigabytes * 1e9))
            done = subprocess.run(
                [sys.executable, "-c", _READ, folder, path.name], stdout=subprocess.PIPE, text=True, check=True
            )
            figures = json.loads(done.stdout)
            print(f"{suffix}: {path.stat().st_size / 1e9:.2f} GB, {figures}", flush=True)


_READ = """
import json, re, sys, time
from pathlib import Path
from datetime import date
import pyarrow as pa
from forecache.lake.ingest.parsing import parse_files
from forecache.declare import Column, Source
types = {"customer": "string", "day": "date", "amount": "double", "note": "string"}
source = Source("big", tuple(Column(*column) for column in types.items()), "day", date(2026, 1, 1))
names = pa.record_batch([pa.array([sys.argv[2]])], names=["source_file"])

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

started, before, rows = time.monotonic(), peak_mb(), 0
for batch in parse_files([names], uri=sys.argv[1], storage_options={}, source=source, refused={}):
    rows += batch.num_rows
seconds = round(time.monotonic() - started)
print(json.dumps({"rows": rows - 1, "seconds": seconds, "peak_mb": peak_mb(), "peak_before_mb": before}))
"""


def _write(path: Path, num_bytes: int) -> None:
    names = ["customer", "day", "amount", "note"]
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, pa.string()) for name in names])
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            number = 0
            while path.stat().st_size < num_bytes:
                rows = [ROW.format(i, i % 100)[:-1].split(",") for i in range(number, number + 500_000)]
                writer.write_table(pa.table(list(zip(*rows, strict=True)), schema=schema))
                number += 500_000
        return
    with path.open("w", buffering=1 << 20) as sink:
        if path.suffix == ".csv":
            sink.write(",".join(names) + "\n")
        number = written = 0
        while written < num_bytes:
            row = ROW.format(number, number % 100)
            line = (
                row if path.suffix == ".csv" else json.dumps(dict(zip(names, row[:-1].split(","), strict=True))) + "\n"
            )
            written += sink.write(line)
            number += 1


if __name__ == "__main__":
    main()
