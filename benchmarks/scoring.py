"""`make bench-scoring`: batch scoring against mlflow's Spark UDF, on the same model and table, in the same session.

    python benchmarks/scoring.py                       all sections, 4 million rows
    python benchmarks/scoring.py --only warm --rows 1000000
    python benchmarks/scoring.py --report              measure nothing, print what results/scoring.json holds

Results are merged into benchmarks/results/scoring.json, so that sections can be measured apart; with another number of
rows than the default they go to the work folder instead. A section that fails keeps its former result, is named at the
end, and does not stop the others.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _processor import processor_name
from _scoring import report

ROOT = Path(__file__).resolve().parent.parent
ROWS = 4_000_000
SECTIONS = ("warm", "cold", "trees", "arrow", "incremental", "scaling", "kill")
_JOB_LIMIT_S = 900.0


class BenchmarkError(Exception):
    """A measurement could not be made; the message says which and why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure this section; may be repeated")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"entities of the night (default: {ROWS:,})")
    parser.add_argument("--repeats", type=int, default=3, help="samples of each contender (default: 3)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".forecache" / "bench-scoring", help="folder for the tables"
    )
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    results = ROOT / "benchmarks" / "results" if arguments.rows == ROWS else arguments.work
    results.mkdir(parents=True, exist_ok=True)
    path = results / "scoring.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    chosen = [] if arguments.report else [name for name in SECTIONS if name in (arguments.only or SECTIONS)]
    failed = []
    for name in [name for name in os.environ if name.startswith("FORECACHE_")]:
        del os.environ[name]  # the settings of whoever runs this are not what is measured
    for section in chosen:
        say(f"measuring {section}")
        before = _circumstances()
        try:
            measured = MEASURES[section](arguments.work.resolve(), arguments.rows, arguments.repeats)
        except Exception as error:  # noqa: BLE001  # half an hour of other sections is not given up for one
            traceback.print_exc()
            failed.append(f"{section}: {error}")
            continue
        found[section] = {**before, "rows_of_night": arguments.rows, **measured}
        path.write_text(json.dumps(found, indent=1) + "\n")
    if not found:
        print(f"{path} holds no section yet.", file=sys.stderr)
        return 1
    report.show(report.rows_of(found))
    report.plot(found, results / "scoring.png")
    print(
        "Medians, in brackets the smallest and the largest sample. A ratio against mlflow's or the copy's figure in the"
    )
    print("same session is the median over pairs measured one after the other, any other one that of the medians.")
    print(f"Details: {path}; plot: {results / 'scoring.png'}")
    for sentence in failed:
        print(f"FAILED: {sentence}", file=sys.stderr)
    return 1 if failed else 0


def say(message: str) -> None:
    print(f"[{datetime.now():%H:%M:%S}] {message}", file=sys.stderr, flush=True)


def _circumstances() -> dict[str, Any]:
    packages = ("pyspark", "delta-spark", "deltalake", "mlflow", "onnxruntime", "pyarrow", "lightgbm")
    return {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "packages": {name: version(name) for name in packages},
    }


def job(name: str, **arguments: Any) -> dict[str, Any]:
    process = start(name, **arguments)
    try:
        output, _ = process.communicate(timeout=_JOB_LIMIT_S)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise BenchmarkError(f"the measurement {name} took more than {_JOB_LIMIT_S:.0f} s") from None
    if process.returncode:
        raise BenchmarkError(f"the measurement {name} failed with exit code {process.returncode}")
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def start(name: str, **arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "_scoring.job", name, json.dumps(arguments)]
    path = os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def _kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _home(work: Path, rows: int) -> str:
    return str(work / f"rows-{rows}")


def warm(work: Path, rows: int, repeats: int) -> dict[str, Any]:
    which = ["copy", "constant", "mlflow", "udf", "score"]
    found = job("warm", home=_home(work, rows), rows=rows, repeats=repeats, cores=2, which=which, trees=False)
    return {**found, "rows": rows}


def cold(work: Path, rows: int, repeats: int) -> dict[str, Any]:
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        "runs": {"copy": [], "mlflow": [], "udf": [], "score": []},
        "runs_after_copy": {"mlflow": [], "udf": [], "score": []},
    }
    for _ in range(repeats):
        for kind, runs in found.items():
            for name, samples in runs.items():
                home = _home(work, rows)
                samples.append(job("cold", home=home, rows=rows, which=name, copy_first=kind == "runs_after_copy"))
    return {**found, "rows": rows}


def trees(work: Path, rows: int, repeats: int) -> dict[str, Any]:
    few = rows // 8
    home, which = _home(work, few), ["mlflow", "udf"]
    found = job("warm", home=home, rows=few, repeats=repeats, cores=2, which=which, trees=True)
    return {**found, "rows": few}


def arrow(work: Path, rows: int, repeats: int) -> dict[str, Any]:
    sizes = (rows, 4 * rows)
    for size in sizes:
        job("make", home=_home(work, size), rows=size)
    return {"runs": {str(n): job("arrow", home=_home(work, n), rows=n, repeats=repeats) for n in sizes}}


def incremental(work: Path, rows: int, repeats: int) -> dict[str, Any]:
    """The network, whose full run does little but read and write, and the trees, whose full run scores."""
    options = {"home": _home(work, rows), "rows": rows, "share": 0.01, "repeats": repeats}
    return {
        **job("incremental", trees=False, **options),
        "share": 0.01,
        "trees": job("incremental", trees=True, **options),
    }


def scaling(work: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Seconds of each contender by rows and by cores; at the largest size, which takes mlflow minutes, of `score`."""
    by_rows, everyone = {}, ["mlflow", "udf", "score"]
    for size in (rows // 4, rows, 4 * rows):
        options = {"home": _home(work, size), "rows": size, "which": everyone if size <= rows else ["score"]}
        by_rows[str(size)] = job("warm", repeats=repeats, cores=2, trees=False, **options)["seconds"]
    options = {"home": _home(work, rows), "rows": rows, "which": everyone}
    one = job("warm", repeats=repeats, cores=1, trees=False, **options)["seconds"]
    return {"rows": by_rows, "cores": {"1": one, "2": by_rows[str(rows)]}}


def kill(work: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Kill a run when half of its shards are there, run it again, and compare with a run that nobody kills."""
    from _scoring.data import FILES, NIGHT, PIPELINE, prepare
    from scoring_support import predictions

    home = _home(work, rows)
    settings = prepare(Path(home), rows)
    number = int(time.time())
    folder = Path(settings.table_uri(PIPELINE.prediction_table)) / f"as_of={NIGHT}"
    of_others = _shards(folder)
    whole = job("one_run", home=home, number=number)
    expected = _content(predictions(settings, PIPELINE))
    before = _shards(folder)
    parts = len(before - of_others) // FILES
    process = start("one_run", home=home, number=number + 1)
    assert process.stdout is not None
    process.stdout.readline()
    while len(_shards(folder) - before) < FILES // 2 * parts:
        if process.poll() is not None:
            raise BenchmarkError("the run ended before it could be killed")
        time.sleep(0.005)
    _kill(process)
    kept = job("kept", home=home, number=number + 1)
    again = job("one_run", home=home, number=number + 1)
    lost = min(kept["lost_at_most"], rows - kept["rows"])
    identical = _content(predictions(settings, PIPELINE)).equals(expected)
    return {
        "rows": rows,
        "killed_at": kept["rows"] / rows,
        "total_rows": kept["rows"] + lost + again["scored_rows"],
        "lost_rows_at_most": lost,
        "seconds_whole": whole["seconds"],
        "seconds_again": again["seconds"],
        "identical": identical,
    }


def _content(table: Any) -> Any:
    return table.drop_columns(["scored_at", "run_id"]).combine_chunks()


def _shards(folder: Path) -> set[str]:
    return {str(path) for path in folder.glob("*/shard=*/part-*.parquet")}


MEASURES = {name: globals()[name] for name in SECTIONS}

if __name__ == "__main__":
    sys.exit(main())
