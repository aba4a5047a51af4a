"""What a change makes outdated: each row of docs/explanation/staleness.md, proven by editing the files of a project.

For every change the stages whose inputs differ are those named, and no other: both directions.
"""

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from forecache.base.settings import load_settings
from forecache.declare import load_pipelines
from forecache.lake.training_set import as_of_dates
from forecache.models.training.launch import training_inputs
from forecache.plugins.drift.monitor import declared_inputs
from forecache.serve.store.publishing.publish import content_inputs

ORIGINAL = Path(__file__).parents[1] / "support" / "staleness_project"
FEATURES, TRAINING_SET, TRAINING, SCORING, PUBLISH = "features", "training_set", "training", "scoring", "publish"
MONITORING = "monitoring"
LABELS = {TRAINING_SET, MONITORING}
ROWS = {FEATURES, *LABELS}


class Project:
    """A copy of the project on disk, loaded anew each time it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))

    def hashes(self, pipeline: str = "visits") -> dict[str, str]:
        forget()
        importlib.invalidate_caches()
        declared = load_pipelines(load_settings(project="staleness_project"))
        chosen = declared[pipeline]
        dates = as_of_dates(chosen, date(2025, 1, 1))
        night = SimpleNamespace(source=SimpleNamespace(as_of="2025-01-01"), digest="the rows")
        return {
            **asdict(chosen.fingerprints),
            TRAINING: training_inputs(chosen, 1, precision=chosen.training.precision),
            MONITORING: declared_inputs(chosen),
            TRAINING_SET: f"{chosen.fingerprints.training_set} {dates}",
            PUBLISH: content_inputs(chosen, night),  # type: ignore[arg-type]
        }


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "staleness_project"]:
        del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    folder = shutil.copytree(ORIGINAL, tmp_path / "staleness_project", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two edits in a second would be taken for one
    forget()
    yield Project(folder)
    forget()


V = "pipelines/visits.py"

# (what is changed, file, from, to, stages that become stale)
CHANGES = [
    # Values of the declaration.
    ("output bound", V, "maximum=1.0", "maximum=0.9", {SCORING}),
    ("segment bound", V, "bounds=(0.5,)", "bounds=(0.7,)", {SCORING}),
    ("segment renamed", V, 'Segment("band"', 'Segment("group"', {SCORING, PUBLISH}),
    ("segment label", V, 'labels=("low", "high")', 'labels=("cold", "hot")', {SCORING}),
    ("gate floor", V, '{"roc_auc": 0.6}', '{"roc_auc": 0.7}', set()),
    ("gate baseline", V, '{"roc_auc": 0.6}, baseline=Baseline("recency")', '{}, baseline=Baseline("amount")', set()),
    ("age beyond which an answer is stale", V, "Publish(", "Publish(max_age_h=48, ", {PUBLISH}),
    ("what happens with an old answer", V, "Publish(", 'Publish(on_stale="refuse", ', {PUBLISH}),
    ("served fields", V, "Publish(", 'Publish(fields=("band",), ', {PUBLISH}),
    ("versions kept", V, "Publish(", "Publish(keep=9, ", set()),
    ("gate metric", V, '"roc_auc", floors={"roc_auc": 0.6}', '"brier", floors={"roc_auc": 0.6}', {MONITORING}),
    ("nights before that drift looks at", V, "last=7", "last=3", {MONITORING}),
    ("drift limit", V, "last=7", "last=7, small_psi=0.05", set()),
    ("retraining", V, "min_nights=3", "min_nights=2", set()),
    ("challenger", V, "    drift=", "    shadow=True,\n    drift=", set()),
    (
        "a source's unique column",
        V,
        "    start=date(2024, 1, 1),",
        '    start=date(2024, 1, 1),\n    unique=("day",),',
        set(),
    ),
    ("owner", V, '    description="Whether', '    owner="me",\n    description="Whether', set()),
    ("publish limit", V, "max_psi=0.5", "max_psi=0.4", set()),
    ("description", V, 'description="Whether', 'description="If', set()),
    ("expectation", V, "min_value=0", "min_value=1", set()),
    ("limit of a source's column", V, "minimum=0)", "minimum=1)", set()),
    ("training dates", V, "num_as_of=4", "num_as_of=5", {TRAINING_SET, TRAINING}),
    ("distance of training dates", V, "num_as_of=4", "num_as_of=4, every_days=7", {TRAINING_SET, TRAINING}),
    ("epochs", V, "epochs=3", "epochs=4", {TRAINING}),
    ("log of a feature", V, 'Feature("amount")', 'Feature("amount", log=True)', {TRAINING}),
    ("a further feature", V, 'Feature("amount"))', 'Feature("amount"), Feature("visits"))', {*ROWS, TRAINING, SCORING}),
    ("horizon", V, '"binary", 30', '"binary", 60', LABELS),
    ("key", V, 'key=("user_id",)', 'key=("day",)', {*ROWS, SCORING, PUBLISH}),
    # Functions and what they are given.
    ("argument of a partial", V, "days=windows.DAYS", "days=windows.DAYS + 1", ROWS),
    ("constant that is an argument", "windows.py", "DAYS = 30", "DAYS = 60", ROWS),
    ("state of a callable object", V, "least=1", "least=2", LABELS),
    ("lambda", V, "width=8", "width=16", {TRAINING}),
    ("argument of a closure", V, "robust_loss(0.5)", "robust_loss(0.6)", {TRAINING}),
    ("feature function", "features.py", "[: w.TOP]", "[1 : w.TOP]", ROWS),
    ("inner function of a closure", "networks.py", "output - target", "target - output", {TRAINING}),
    ("body of a method", "shared/labels.py", "len(events) >=", "len(events) >", LABELS),
    # Code that these reach.
    ("helper of a closure", "networks.py", "difference**2", "abs(difference)", {TRAINING}),
    ("network's class", "networks.py", "width, 1)", "width, 2)", {TRAINING}),
    ("base class in another module", "shared/layers.py", '"relu"', '"gelu"', {TRAINING}),
    ("helper imported in the function", "lazy.py", "value / scale", "value * scale", ROWS),
    ("helper of a helper", "lazy.py", "days + 1.0", "days + 2.0", ROWS),
    ("helper by a star import of a package", "shared/rounding.py", "round(value, 3)", "round(value, 2)", ROWS),
    ("constant of a module under another name", "windows.py", "TOP = 200", "TOP = 50", ROWS),
    ("value in a dictionary", "windows.py", '"eur": 1.0', '"eur": 1.1', ROWS),
    ("constant of a label", "shared/labels.py", "THRESHOLD = 0.5", "THRESHOLD = 0.6", LABELS),
    ("decorator", "shared/decorators.py", "return function(*args", "return 2 * function(*args", ROWS),
    ("function that was registered by an import", "registration.py", "row > 0", "row > 1", ROWS),
    ("function that counts in a global", "windows.py", "_calls += 1", "_calls += 2", ROWS),
    ("meaning of an imported name", "features.py", "import rounded", "import Labeller as rounded", ROWS),
    ("code that runs at import", "lazy.py", '"""Imported only', 'print("imported")\n"""Imported only', ROWS),
    # What changes nothing.
    ("comment", "lazy.py", "# A comment.", "# Another one.", set()),
    ("docstring", "features.py", '"""Rows of features."""', '"""Rows."""', set()),
    ("formatting", "lazy.py", "return days + 1.0", "return (\n        days\n        + 1.0\n    )", set()),
    ("docstring of the pipeline's module", V, '"""Visits: whether', '"""Visitors: whether', set()),
    ("unrelated function in the same module", V, "{folder}/visits", "{folder}/day", set()),
    ("unrelated function beside the feature function", "features.py", "    return events\n", "    return []\n", set()),
    ("unrelated function beside a helper", "lazy.py", "    return value\n", "    return -value\n", set()),
    ("unrelated constant", "features.py", "UNUSED = 1", "UNUSED = 2", set()),
    ("unrelated class", "networks.py", "depth = 3", "depth = 4", set()),
]


@pytest.mark.parametrize(("file", "old", "new", "stale"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_change_makes_exactly_these_stages_stale(
    project: Project, file: str, old: str, new: str, stale: set[str]
) -> None:
    before = project.hashes()
    assert project.hashes() == before
    project.edit(file, old, new)
    after = project.hashes()
    assert {stage for stage in before if before[stage] != after[stage]} == stale


TREES = [
    ("class that builds the estimator", "networks.py", "depth = 3", "depth = 4", {TRAINING}),
    ("output name", V, 'Output("score")', 'Output("rank")', {TRAINING, SCORING, PUBLISH}),
    (
        "a new segment",
        V,
        'outputs=(Output("score"),),',
        'outputs=(Output("score"),), segments=(Segment("half", "score", (0.5,), ("low", "high")),),',
        {SCORING, PUBLISH},
    ),
    ("seed", V, "seed=1", "seed=2", {TRAINING}),
    ("precision, of which an estimator has none", V, "seed=1", 'seed=1, precision="bfloat16"', set()),
    ("training dates", V, "Training(seed=1)", "Training(seed=1, num_as_of=9)", {TRAINING_SET}),
    ("epochs, of which an estimator has none", V, "Training(seed=1)", "Training(seed=1, epochs=9)", set()),
    ("argument inside a lambda", V, "days=7", "days=8", ROWS),
    ("lambda of another pipeline in the module", V, "width=8", "width=9", set()),
    ("output bound of another pipeline in the module", V, "maximum=1.0", "maximum=0.5", set()),
]


@pytest.mark.parametrize(("file", "old", "new", "stale"), [c[1:] for c in TREES], ids=[c[0] for c in TREES])
def test_a_change_makes_exactly_these_stages_of_an_estimator_stale(
    project: Project, file: str, old: str, new: str, stale: set[str]
) -> None:
    before = project.hashes("trees")
    project.edit(file, old, new)
    after = project.hashes("trees")
    assert {stage for stage in before if before[stage] != after[stage]} == stale


def test_a_value_from_the_environment_counts(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before = project.hashes()
    monkeypatch.setenv("STALENESS_CITY", "Bern")
    after = project.hashes()
    assert {stage for stage in before if before[stage] != after[stage]} == ROWS


def test_calling_the_functions_changes_nothing(project: Project) -> None:
    project.hashes()
    declared = load_pipelines(load_settings(project="staleness_project"))["visits"]
    before = declared.fingerprints
    declared.features.compute([1, 2])  # type: ignore[arg-type]
    assert replace(declared).fingerprints == before


def test_every_process_comes_to_the_same_hashes_in_any_folder(project: Project, tmp_path: Path) -> None:
    code = (
        "from forecache.declare import load_pipelines; from forecache.base.settings import load_settings; "
        "print([p.fingerprints for p in load_pipelines(load_settings(project='staleness_project')).values()])"
    )
    moved = shutil.copytree(project.folder, tmp_path / "elsewhere" / "staleness_project")
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": str(folder.parent), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, folder in (("1", project.folder), ("2", moved))
    }
    assert len(found) == 1
