"""A plan names exactly the stages that the run then carries out, with the causes, and writes nothing."""

import contextlib
import hashlib
import io
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from edited_project import EditedProject
from new_version import new_version_of

from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.lake.ledger import ledger_records, records_after
from forecache.models.registry.model_versions import find_champion
from forecache.operations.kept_contracts import REMOVED
from forecache.plugins.doctor.training import check_champions
from forecache.plugins.plan.command import HAS_WORK
from forecache.plugins.plan.make_plan import plan_run
from forecache.plugins.plan.plan import Plan
from forecache.runs import Job, RunRequest, read_project, run_in_process

DAYS = [date(2026, 1, 1) + timedelta(days=number) for number in range(20)]
NIGHTS = (DAYS[14], DAYS[15])
Edit = Callable[["PlannedProject"], object]


class PlannedProject(EditedProject):
    """A copy of the sample project that tests edit, and its home."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "planned_project")
        more = {"project": "planned_project", "engine": "arrow", "scoring_worker_memory_mb": 8192}
        self.settings = load_settings(home=folder / "home", **more)
        rng = random.Random(1)
        for day in DAYS[:17]:
            self.land(day, [(customer, rng.randint(1, 400) / 4) for customer in range(200) if rng.random() < 0.8])

    def land(self, day: date, sales: list[tuple[int, float]], *, part: str = "", more: str = "") -> None:
        landing = Path(self.settings.landing_uri) / "sales"
        landing.mkdir(parents=True, exist_ok=True)
        rows = [f"{customer},{day},{amount}{',' * bool(more)}" for customer, amount in sales]
        (landing / f"{day}{part}.csv").write_text("\n".join([f"customer,day,amount{more}", *rows]) + "\n")

    def request(self, job: Job, nights: tuple[date, date] = NIGHTS) -> RunRequest:
        return RunRequest(list(read_project(self.settings).nightly), nights=nights, job=job)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlannedProject]:
    folder = tmp_path_factory.mktemp("planned")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        patched.setattr(sys, "dont_write_bytecode", True)
        made = PlannedProject(folder)
        yield made
        made.forget()


def hash_files(settings: Settings) -> dict[str, str]:
    """By path, a hash of each file of the home, but those of locks."""
    files = [path for path in settings.home_path.rglob("*") if path.is_file() and "locks" not in path.parts]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


Stages = dict[tuple[str, str], set[date]]


def planned_stages(made: Plan, *, is_promoted: bool) -> Stages:
    found: Stages = defaultdict(set)
    for each in made.stages:
        if not each.condition or is_promoted != each.condition.startswith("unless "):
            found[each.stage, each.subject] |= {*each.dates}
    for name in ("ingest", "extract"):
        found |= {key: set() for key in found if key[0] == name}
    return found


def recorded_stages(settings: Settings, after: int) -> Stages:
    found: Stages = defaultdict(set)
    for row in records_after(settings, after):
        if row.inputs == REMOVED:  # what a stage wrote earlier has ended
            continue
        found[row.stage, row.subject] |= {row.as_of} if row.as_of else set()
    return found


def plan_and_run(project: PlannedProject, request: RunRequest) -> tuple[Plan, list[str]]:
    """Plan, see that nothing was written, run, and compare the stages; returns the warnings of the scoring, too."""
    settings = project.settings
    before = hash_files(settings)
    made = plan_run(settings, request)
    assert hash_files(settings) == before
    assert made.blocked == {}
    champion = find_champion(settings, read_project(settings).pipelines["spend"])
    last = max((row.commit_version or 0 for row in ledger_records(settings)), default=-1)
    results = run_in_process(settings, request)
    now = find_champion(settings, read_project(settings).pipelines["spend"])
    assert now is not None
    is_promoted = champion is None or now.version != champion.version
    assert recorded_stages(settings, last) == planned_stages(made, is_promoted=is_promoted)
    again = plan_run(settings, request)
    assert not again.has_work
    [warnings] = [each.details["warnings"] for each in results if (each.stage, each.subject) == ("score", "spend")]
    assert warnings == [note for note in again.notes if note.startswith("The champion")]
    return made, warnings


def causes_of(made: Plan, stage: str, subject: str) -> list[str]:
    [found] = [each for each in made.stages if (each.stage, each.subject) == (stage, subject)][:1]
    return [re.sub("__[0-9a-f]{16}", "__CONTRACT", cause) for cause in found.causes]


SPEND = "pipelines/spend"
CHANGES_NOTHING = ("a docstring", "the time of the training")
CHANGES_FEATURES = {"one feature's code": 2, "a new column of a source": 3, "a new feature": 3}
"""Changes without a training after which the champion, of that version, goes on with the features of its training."""
_SQL = '`compute` ...urchases", max(("sales"."a... -> ...urchases", min(("sales"."a...'
_SQL_OF_VIEW = _SQL.replace("compute", "views.habits.compute")
CHANGES: dict[str, tuple[Job, Edit, dict[tuple[str, str], list[str]]]] = {
    "a docstring": (
        "full",
        lambda p: p.edit("parameters", "Parameters of LightGBM.", "What LightGBM is built with."),
        {},
    ),
    "a bound": (
        "nightly",
        lambda p: p.edit(SPEND, "maximum=1e6", "maximum=2e6"),
        {("score", "spend"): ["`outputs.next_spend.maximum` 1000000.0 -> 2000000.0"]},
    ),
    "a label's horizon": (
        "full",
        lambda p: p.edit(SPEND, "horizon_days=2", "horizon_days=1"),
        {("training_set", "spend"): ["`label.horizon_days` 2 -> 1", "the splits have other as-of dates"]},
    ),
    "one feature's code": (
        "nightly",
        lambda p: p.edit(SPEND, "max(amount) AS most", "min(amount) AS most"),
        {
            ("features", "habits"): [_SQL],
            ("features", "spend"): [
                "the features of habits are written again",
                _SQL_OF_VIEW,
            ],
            ("score", "spend"): ["the features of spend__CONTRACT are written again"],
        },
    ),
    "a helper two modules away": (
        "full",
        lambda p: p.edit("constants", "return 7", "return 5"),
        {
            ("training_set", "spend"): [_SQL_OF_VIEW],
            ("train", "spend"): [
                "its training set is written again",
                "`planned_project.constants:leaves` changed, which `model.build` reaches",
            ],
        },
    ),
    "a helper of a rule, three modules away": (
        "nightly",
        lambda p: p.edit("constants", "return 0.5", "return 0.25"),
        {("score", "rule"): ["model rule 1 -> 2"]},
    ),
    "a new column of a source": (
        "nightly",
        lambda p: (
            p.edit(SPEND, 'Column("amount"', 'Column("shop", "string", required=False),\n        Column("amount"'),
            p.land(DAYS[17], [(1, 2.5)], more=",shop"),
        ),
        {
            ("ingest", "sales"): ["1 landing file (2026-01-18.csv) not ingested yet"],
            ("check", "raw_sales"): ["its rows are new"],
        },
    ),
    "a new feature": (
        "nightly",
        lambda p: p.edit(
            SPEND,
            '        Window("spent_7d"',
            '        Window("spent_3d", "sum", 3, "amount"),\n        Window("spent_7d"',
        ),
        {("features", "customer"): ["`windows.spent_3d` is new"]},
    ),
    "a model's parameter": (
        "full",
        lambda p: p.edit("parameters", '"n_estimators": 20', '"n_estimators": 25'),
        {
            ("train", "spend"): [
                "its training set is written again",
                "`features.spent_3d` is new",
                "`planned_project.parameters:tree_parameters` changed, which `model.build` reaches",
            ]
        },
    ),
    "a value of the training": (
        "full",
        lambda p: p.edit(SPEND, "num_as_of=3", "num_as_of=4"),
        {("training_set", "spend"): ["the splits have other as-of dates"]},
    ),
    "a source's file": (
        "nightly",
        lambda p: p.land(DAYS[13], [(500, 9.5), (501, 7.25)], part=".2"),
        {
            ("ingest", "sales"): ["1 landing file (2026-01-14.2.csv) not ingested yet"],
            ("features", "habits"): ["raw_sales gets 1 landing file (2026-01-14.2.csv)"],
        },
    ),
    "the gate": (
        "full",
        lambda p: p.edit(SPEND, '{"mae": 1e6}', '{"mae": 2e6}'),
        {},
    ),
    "the schedule": (
        "full",
        lambda p: p.edit(SPEND, "0 5 * * *", "0 6 * * *"),
        {("publish", "spend"): ["the published version has other rules: 38.0 -> 39.0"]},
    ),
    "the time of the training": (
        "nightly",
        lambda p: p.edit(SPEND, '"0 6 * * *"', '"0 6 * * *", training="0 9 * * 1"'),
        {},
    ),
    "a window of another view": (
        "nightly",
        lambda p: p.edit(SPEND, '"spent_2d", "sum", 2', '"spent_2d", "sum", 3'),
        {("features", "tempo"): ["`windows.spent_2d.days` 2 -> 3", "`days` 2 -> 3", "raw_sales 0 -> 2"]},
    ),
    "one feature's code, with a training": (
        "full",
        lambda p: p.edit(SPEND, "min(amount) AS most", "avg(amount) AS most"),
        {},
    ),
}


@pytest.mark.slow
def test_for_each_kind_of_change_the_plan_names_the_stages_that_run_and_why(project: PlannedProject) -> None:
    first, _ = plan_and_run(project, project.request("full"))
    assert all(each.estimate.is_guess for each in first.stages)
    assert {each.stage for each in first.stages} >= {"ingest", "features", "train", "gate", "score", "publish"}
    found, warned = {}, {}
    for name, (job, change, causes) in CHANGES.items():
        change(project)
        made, warned[name] = plan_and_run(project, project.request(job))
        found[name] = {key: causes_of(made, *key) for key in causes}
        assert bool(made.stages) == (name not in CHANGES_NOTHING), name
    assert found == {name: causes for name, (_, _, causes) in CHANGES.items()}
    assert {name: each for name, each in warned.items() if each} == {
        name: [earlier_features(version)] for name, version in CHANGES_FEATURES.items()
    }
    with new_version_of("lightgbm"):  # what has been trained and scored stays as it is
        made, _ = plan_and_run(project, project.request("full"))
        assert made.stages == ()
    show_in_commands(project)


def earlier_features(version: int) -> str:
    return (
        f"The champion spend {version} goes on with the features that it was trained on, which changed since: "
        "`forecache train spend`."
    )


def show_in_commands(project: PlannedProject) -> None:
    """The commands' texts and exit codes, while everything is current, and for an as-of date that has not run."""
    settings, capture = project.settings, io.StringIO()

    def call(*arguments: str, command: str = "plan") -> tuple[int, str]:
        with (
            pytest.MonkeyPatch.context() as patched,
            contextlib.redirect_stdout(capture),
            contextlib.redirect_stderr(capture if command == "run" else sys.stderr),
        ):
            patched.setenv("FORECACHE_HOME", str(settings.home_path))
            patched.setenv("FORECACHE_PROJECT", settings.project)
            patched.setenv("FORECACHE_ENGINE", "arrow")
            patched.setenv("FORECACHE_PRICES", '{"cpu": [0.04, 0.01]}')
            code = main([command, *arguments])
        text = capture.getvalue()
        capture.seek(0)
        capture.truncate()
        return code, text

    current = f"{NIGHTS[0]}..{NIGHTS[1]}"
    assert call("--dates", current) == (0, "Nothing to do: everything is current.\n")
    code, text = call("--json", "--date", str(DAYS[16]))
    made = json.loads(text)
    assert code == HAS_WORK
    assert made["has_work"]
    by_stage = {(each["stage"], each["subject"]): each for each in made["stages"]}
    score = by_stage["score", "spend"]
    assert (score["dates"], score["causes"]) == (["2026-01-17"], ["it has not run for this date"])
    assert score["estimate"]["num_runs"] > 1
    assert made["total"]["core_s"] == pytest.approx(sum(each["estimate"]["core_s"] for each in made["stages"]))
    assert made["total"]["price_on_demand"] == pytest.approx(made["total"]["core_s"] / 3600 * 0.04, rel=1e-3)
    code, text = call("--dry-run", "--json", "--date", str(DAYS[16]), command="run")
    assert (code, json.loads(text)["stages"]) == (HAS_WORK, made["stages"])
    code, text = call("--markdown", "spend", "--date", str(DAYS[16]))
    assert code == HAS_WORK
    assert "| score | spend | 2026-01-17 | " in text
    code, text = call("spend", "--date", str(DAYS[18]))
    assert code == HAS_WORK
    assert "spend would stop: As-of date 2026-01-19 is empty" in text
    assert check_champions(settings).state == "ok"
    project.edit(SPEND, '"spent_3d", "sum", 3', '"spent_3d", "sum", 4')
    code, text = call("spend", "--date", str(NIGHTS[1]), command="run")
    champion = find_champion(settings, read_project(settings).pipelines["spend"])
    assert champion is not None
    assert (code, text.count(f"! {earlier_features(champion.version)}")) == (0, 1)
    assert check_champions(settings).found == earlier_features(champion.version)
