"""`make bench-history`: whether years of history slow down a run that has nothing to do, and the commands around it.

python benchmarks/history.py               one week and three years of 30 pipelines, maintained and never maintained
python benchmarks/history.py --home DIR    begin from the home of a demo instead of running one
python benchmarks/history.py --report      measure nothing, print what results/history.json holds
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _common import results
from _common.command import exit_code, options
from _common.rows import Asked, Row, Value
from _history.write import described, write_history

from forecache.base.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = {"history": "Three years of nightly history of 30 pipelines against one week of it, CPU seconds"}
NIGHTS = {"tiny": (7, 60, 1), "full": (7, 1095, 2)}
"""Nights of the short and the long history, and how often each command is measured."""
PIPELINES = 30
_LOAD = (
    "from forecache.base.settings import load_settings; from jobs.definitions import build_definitions; "
    "build_definitions(load_settings()).get_repository_def().load_all_definitions()"
)
_NIGHTLY = (
    "from forecache.base.settings import load_settings; from jobs.runner import run; "
    "run(load_settings(), pipelines=['churn', 'spend'])"
)
_BIN = ROOT / ".venv" / "bin"
IDLE = "a run with nothing to do"
THIRTY = "a run with nothing to do of thirty pipelines"
_RUN_THIRTY = (
    "from forecache.base.settings import load_settings; from forecache.declare.loading import read_project; "
    "from forecache.runs import RunRequest, run_in_process; settings = load_settings(); "
    "run_in_process(settings, RunRequest(list(read_project(settings).nightly)))"
)
COMMANDS = {
    IDLE: [_BIN / "forecache", "run", "--json"],
    THIRTY: [_BIN / "forecache", "run", "--json"],
    "`forecache store versions`": [_BIN / "forecache", "store", "versions", "churn"],
    "`forecache doctor`": [_BIN / "forecache", "doctor"],
    "loading Dagster's definitions": [_BIN / "python", "-c", _LOAD],
}
_LONG = {"maintained": "three years", "never maintained": "three years, never maintained"}


def main() -> int:
    parser = options(__doc__, "history", SECTIONS)
    parser.add_argument("--home", type=Path, help="home of a demo, which is copied")
    arguments = parser.parse_args()
    work = ROOT / ".forecache" / "bench-history"
    path = results.folder_of(arguments.size, work, arguments.results) / "history.json"
    failed = []
    if not arguments.report:
        measures = {"history": lambda: measure(work / "homes", arguments.home, arguments.size)}
        failed = results.measure_sections(["history"], measures, path=path, size=arguments.size)
    print(results.text(results.load(path), SECTIONS, rows_of))
    return exit_code(failed)


def measure(work: Path, demo: Path | None, size: str) -> dict[str, Any]:
    short, long, repeats = NIGHTS[size]
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        if demo is None:
            demo = work / "demo"
            call([_BIN / "forecache", "demo"], demo)
        homes = {"week": work / "week", "maintained": work / "maintained", "never maintained": work / "never"}
        for which, nights in (("week", short), ("never maintained", long)):
            shutil.copytree(demo, homes[which])
            call([_BIN / "python", "-c", _NIGHTLY], homes[which])  # a run to copy: an idle command makes none
            write_history(load_settings(home=homes[which]), nights=nights, pipelines=PIPELINES)
        shutil.copytree(homes["never maintained"], homes["maintained"])
        for which in ("week", "maintained"):
            call([_BIN / "forecache", "maintain"], homes[which])
        for home in homes.values():
            call([_BIN / "forecache", "run"], home)  # there are nights before now, with which it compares
            call([_BIN / "python", "-c", _RUN_THIRTY], home, project="_history.thirty")
        shapes = {which: described(load_settings(home=home)) for which, home in homes.items()}
        samples: dict[str, dict[str, list[dict[str, float]]]] = {
            command: {which: [] for which in homes} for command in COMMANDS
        }
        for _ in range(repeats):
            for command, arguments in COMMANDS.items():
                for which, home in homes.items():
                    project = "_history.thirty" if command == THIRTY else "dagster_project"
                    samples[command][which].append(call(arguments, home, project=project))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"nights": [short, long], "pipelines": PIPELINES, "shapes": shapes, "samples": samples}


def call(arguments: list[Any], home: Path, *, project: str = "dagster_project") -> dict[str, float]:
    """Run a command: its wall time and the CPU time of all its processes; RuntimeError where a run was not idle."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=ROOT,
        env={
            **environment,
            "FORECACHE_HOME": str(home),
            "FORECACHE_PROJECT": project,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode and "doctor" not in arguments:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr[-1000:]}")
    if arguments[1:] == ["run", "--json"]:
        worked = [stage for stage in json.loads(done.stdout) if not stage["skipped"]]
        if worked:
            raise RuntimeError(f"the run had something to do: {[stage['stage'] for stage in worked]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu}


def rows_of(section: str, measured: dict[str, Any]) -> list[Row]:
    rows = []
    for command, by_home in measured["samples"].items():
        found = {which: Value.of(each["cpu_seconds"] for each in some) for which, some in by_home.items()}
        for which, peer in _LONG.items():
            rows.append(
                Row(
                    f"{command}, {peer}",
                    found[which],
                    "s CPU",
                    peer="one week",
                    theirs=found["week"],
                    ratio=found[which] / found["week"],
                    asked=Asked(1.5, at_least=False),
                    key=which,
                )
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
