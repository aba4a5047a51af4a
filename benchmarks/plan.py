"""`make bench-plan`: how near the estimates of `forecache plan` come to what the runs take, and how long a plan takes.

python benchmarks/plan.py                      the demo, the shop and thirty pipelines; seven minutes on two cores
python benchmarks/plan.py --only thirty        one of them
python benchmarks/plan.py --report             measure nothing, print what results/plan.json holds

Each project runs some as-of dates one after the other, each in a process of its own, which plans the run before. Of the
stages that had run before, the estimate is compared with the core-seconds that the ledger then has. The shop needs its
purchases, which `make bench-plan` installs: `bash scripts/install_shop_data.sh`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from _common import command, results
from _common.rows import Asked, Row, Value

ROOT = Path(__file__).resolve().parent.parent
NIGHTS = {"tiny": 3, "full": 7}
"""Nightly runs of each project."""


@dataclass(frozen=True)
class Project:
    """A project, its first as-of date, and the jobs that are run before the nightly ones and at the end."""

    package: str
    pipelines: tuple[str, ...]
    first: date
    trains: bool = False


PROJECTS = {
    "demo": Project("dagster_project", ("churn", "spend"), date(1998, 6, 20), trains=True),
    "shop": Project("shop", ("recommended", "tastes"), date(2017, 12, 10)),
    "thirty": Project("_plan.thirty", tuple(f"rule{number:02}" for number in range(30)), date(1998, 6, 20)),
}
SECTIONS = {
    "demo": "The demo, two pipelines that are trained twice",
    "shop": "The shop, two recommenders",
    "thirty": "Thirty pipelines on one feature view",
}


def main() -> int:
    arguments = command.options(__doc__, "plan", SECTIONS).parse_args()
    path = results.folder_of(arguments.size, ROOT / ".forecache" / "bench-plan", arguments.results) / "plan.json"
    failed = []
    if not arguments.report:
        measures = {name: lambda name=name: measure(PROJECTS[name], NIGHTS[arguments.size]) for name in SECTIONS}
        chosen = command.chosen(arguments, SECTIONS)
        failed = results.measure_sections(chosen, measures, path=path, size=arguments.size)
    print(results.text(results.load(path), SECTIONS, rows_of))
    return command.exit_code(failed)


def measure(project: Project, nights: int) -> dict[str, Any]:
    home = Path(tempfile.mkdtemp(prefix="forecache-bench-plan-"))
    try:
        call(home, project, "land", project.first)
        runs = []
        for number in range(nights):
            trains = project.trains and number in (0, nights - 1)
            day = project.first + timedelta(days=number)
            runs.append(call(home, project, "full" if trains else "nightly", day))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return {"runs": runs}


def call(home: Path, project: Project, job: str, day: date) -> Any:
    """Plan and run in a process of its own; RuntimeError if it failed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    places = ("", "benchmarks", "examples/shop", ".tools/shop")
    paths = [*(ROOT / place for place in places), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {
        "FORECACHE_HOME": str(home),
        "FORECACHE_PROJECT": project.package,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    script = ROOT / "benchmarks" / "_plan" / "plan_and_run.py"
    arguments = [sys.executable, str(script), job, str(day), *project.pipelines]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job} of {project.package} for {day} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else None


def rows_of(section: str, measured: dict[str, Any]) -> list[Row]:
    runs = measured["runs"]
    errors, totals = [], []
    for run in runs:
        planned = {name: core_s for name, core_s in run["planned_s"].items() if core_s is not None}
        both = [name for name in planned if run["took_s"].get(name)]
        errors += [abs(planned[name] / run["took_s"][name] - 1) * 100 for name in both]
        if both:
            totals.append(abs(sum(planned[n] for n in both) / sum(run["took_s"][n] for n in both) - 1) * 100)
    differing = sum(set(run["planned_s"]) != set(run["took_s"]) for run in runs)
    limit = Asked(20.0, at_least=False, of_ratio=False, unit="%")
    return [
        Row("error of a stage's core-seconds, median", Value.of([median(errors)]), "%", asked=limit, key="stages"),
        Row("error of a run's core-seconds", Value.of(totals), "%", asked=limit, key="runs"),
        Row("runs whose stages were not those of the plan", Value.of([float(differing)]), f"of {len(runs)}"),
        *(
            Row(
                f"a plan, {clock} time", Value.of(run["plan_s"][clock] for run in runs), "s",
                asked=Asked(5.0, at_least=False, of_ratio=False, unit="s"), key=f"plan_s {clock}",
            )
            for clock in ("wall", "cpu")
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
