"""`make bench-scoring`: batch scoring against its peers, on the same model and table.

python benchmarks/scoring.py                       all sections
python benchmarks/scoring.py --size tiny           try the benchmark itself; its figures mean nothing
python benchmarks/scoring.py --only warm           some sections; the others keep their results and circumstances
python benchmarks/scoring.py --report              measure nothing, print what results/scoring.json holds
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from _common import command, results
from _scoring import report

ROOT = Path(__file__).resolve().parent.parent
_JOB_LIMIT_S = 1200.0


@dataclass(frozen=True)
class Sizes:
    """Rows of the night, samples of each contender by section, rows of the largest night for the engine without a JVM,
    and of all nights that show how time grows."""

    rows: int
    repeats: int
    cold_repeats: int
    cold_after_copy: int
    scaling_repeats: int
    largest: int
    scaling: tuple[int, ...]


SIZES = {
    "tiny": Sizes(
        rows=32_000,
        repeats=1,
        cold_repeats=1,
        cold_after_copy=1,
        scaling_repeats=1,
        largest=64_000,
        scaling=(16_000, 32_000),
    ),
    "full": Sizes(
        rows=2_000_000,
        repeats=2,
        cold_repeats=2,
        cold_after_copy=1,
        scaling_repeats=1,
        largest=16_000_000,
        scaling=(500_000, 2_000_000),
    ),
}


class BenchmarkError(Exception):
    """A measurement could not be made; the message says which and why."""


def main() -> int:
    parser = command.options(__doc__, "scoring", report.SECTIONS)
    parser.add_argument("--work", type=Path, default=ROOT / ".forecache" / "bench-scoring", help="folder of the tables")
    arguments = parser.parse_args()
    sizes, work = SIZES[arguments.size], arguments.work.resolve() / arguments.size
    folder = results.folder_of(arguments.size, work, arguments.results)
    path = folder / "scoring.json"
    failed = []
    command.forget_settings()
    if not arguments.report:
        subprocess.run(["bash", str(ROOT / "benchmarks" / "peers_env.sh"), "small"], check=True)
        chosen = command.chosen(arguments, report.SECTIONS)
        measures = {name: partial(MEASURES[name], work, sizes) for name in chosen}
        failed = results.measure_sections(chosen, measures, path=path, size=arguments.size)
    found = results.load(path)
    if not found:
        print(f"{path} holds no section yet.", file=sys.stderr)
        return 1
    print(results.text(found, report.SECTIONS, report.rows_of))
    report.plot(found, folder / "scoring.png")
    print(f"\nMedians, in brackets the smallest and the largest sample. Details: {path}")
    return command.exit_code(failed)


def say(message: str) -> None:
    print(f"[{datetime.now():%H:%M:%S}] {message}", file=sys.stderr, flush=True)


def job(name: str, **arguments: Any) -> dict[str, Any]:
    say(f"{name} {arguments.get('which', '')} {arguments.get('rows', '')}")
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
    # The peers' folder comes last: what the project has itself is the project's.
    path = os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    environment["FORECACHE_BENCH_PEERS"] = str(ROOT / ".tools" / "peers")
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)


def _kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _home(work: Path, rows: int) -> str:
    return str(work / f"rows-{rows}")


@cache
def tuned(work: Path, rows: int, trees: bool = False) -> dict[str, Any]:
    """The best setting of mlflow's UDF, looked for once in a run of the benchmark; only the choice is shared."""
    return job("tune", home=_home(work, rows), rows=rows, trees=trees)


def warm(work: Path, sizes: Sizes) -> dict[str, Any]:
    rows, small = sizes.rows, min(sizes.scaling)
    which = ["copy", "constant", "mlflow", "map_in_arrow", "udf", "score"]
    tune = tuned(work, small)
    equal = job("answers", home=_home(work, small), rows=small, setting=tune["best"])
    options = {"repeats": sizes.repeats, "cores": 2, "which": which, "trees": False, "setting": tune["best"]}
    found = job("warm", home=_home(work, rows), rows=rows, **options)
    return {**found, "rows": rows, "tuning": tune, "answers": equal}


def cold(work: Path, sizes: Sizes) -> dict[str, Any]:
    home, rows = _home(work, sizes.rows), sizes.rows
    setting = tuned(work, min(sizes.scaling))["best"]
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        "runs": {"copy": [], "mlflow": [], "udf": [], "score": []},
        "runs_after_copy": {"mlflow": [], "udf": [], "score": []},
    }
    for repeat in range(sizes.cold_repeats):
        for kind, runs in found.items():
            if kind == "runs_after_copy" and repeat >= sizes.cold_after_copy:
                continue
            for name, samples in runs.items():
                after = kind == "runs_after_copy"
                samples.append(job("cold", home=home, rows=rows, which=name, copy_first=after, setting=setting))
    return {**found, "rows": rows, "mlflow_setting": setting}


def trees(work: Path, sizes: Sizes) -> dict[str, Any]:
    rows = sizes.rows // 8
    tune = tuned(work, rows, trees=True)
    options = {"repeats": sizes.repeats, "cores": 2, "which": ["mlflow", "udf"], "trees": True, "setting": tune["best"]}
    return {**job("warm", home=_home(work, rows), rows=rows, **options), "rows": rows, "tuning": tune}


def arrow(work: Path, sizes: Sizes) -> dict[str, Any]:
    """The engine without a JVM and its peers, each in a process of its own, with mlflow's UDF in the same section."""
    rows, repeats, setting = sizes.rows, sizes.repeats, tuned(work, min(sizes.scaling))["best"]
    options = {"repeats": repeats, "cores": 2, "which": ["mlflow"], "trees": False, "setting": setting}
    mlflow = job("warm", home=_home(work, rows), rows=rows, **options)
    runs: dict[str, Any] = {}
    for size in (rows, sizes.largest):
        job("make", home=_home(work, size), rows=size)
        count = repeats if size == rows else 1
        runs[str(size)] = {"score": job("arrow", home=_home(work, size), rows=size, repeats=count)}
        for which in ("polars", "duckdb"):
            runs[str(size)][which] = job("alone", home=_home(work, size), rows=size, repeats=count, which=which)
    return {"rows": rows, "runs": runs, "mlflow": mlflow}


def incremental(work: Path, sizes: Sizes) -> dict[str, Any]:
    """The network, whose full run does little but read and write, and the trees, whose full run scores."""
    rows, few, setting = sizes.rows, sizes.rows // 8, tuned(work, min(sizes.scaling))["best"]
    options = {"share": 0.01, "repeats": sizes.repeats}
    network = job("incremental", home=_home(work, rows), rows=rows, trees=False, setting=setting, **options)
    of_trees = job("incremental", home=_home(work, few), rows=few, trees=True, **options)
    return {
        "rows": rows,
        "share": 0.01,
        "mlflow_setting": setting,
        **network,
        "trees": {"rows": few, **of_trees},
    }


def scaling(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Cores at the size of the night, with everyone; rows with the whole stage."""
    rows, setting = sizes.rows, tuned(work, min(sizes.scaling))["best"]
    everyone = ["mlflow", "udf", "score"]
    options = {"repeats": sizes.scaling_repeats, "trees": False, "setting": setting}
    cores = {
        str(count): job("warm", home=_home(work, rows), rows=rows, cores=count, which=everyone, **options)
        for count in (1, 2)
    }
    by_rows = {
        str(size): job("warm", home=_home(work, size), rows=size, cores=2, which=["score"], **options)
        for size in sizes.scaling
        if size != rows
    }
    return {"rows": rows, "cores": cores, "by_rows": by_rows}


def kill(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Kill a run when half of its shards are there, run it again, and compare with a run that nobody kills."""
    from _scoring.data import FILES, NIGHT, PIPELINE, prepare
    from scoring_support import predictions

    rows = sizes.rows
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


MEASURES = {name: globals()[name] for name in report.SECTIONS}

if __name__ == "__main__":
    sys.exit(main())
