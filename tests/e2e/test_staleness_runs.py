"""Real runs between edits of a project: each stage does again exactly what the edit concerns, with its effect."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from forecache.base.settings import Settings, load_settings
from forecache.lake.query import query

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(900)]

ORIGINAL = Path(__file__).parents[1] / "support" / "till_project"
DAYS = [date(2026, 1, day) for day in range(1, 7)]
CUSTOMERS = 40
ALL = {"features", "training_set", "train", "register", "score", "publish"}


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "till_project"]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = shutil.copytree(ORIGINAL, tmp_path / "till_project", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name, value in {
        "PYTHONPATH": ":".join([str(tmp_path), *sys.path]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FORECACHE_HOME": str(tmp_path / "home"),
        "FORECACHE_PROJECT": "till_project",
    }.items():
        monkeypatch.setenv(name, value)
    forget()
    yield folder
    forget()


@pytest.fixture
def settings(project: Path, spark: object) -> Settings:
    settings = load_settings(spark_master="local[2]")
    folder = Path(settings.landing_uri) / "sales"
    folder.mkdir(parents=True)
    for number, day in enumerate(DAYS):
        rows = [f"c{i:02},{day},{i + number % 2}" for i in range(CUSTOMERS)]
        (folder / f"{day}.csv").write_text("\n".join(["customer,day,amount", *rows]) + "\n")
    return settings


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def run(settings: Settings, **options: Any) -> set[str]:
    """Run everything in the project as it is on disk; the stages that were not current."""
    from jobs.runner import run as run_job

    forget()
    results = run_job(settings, pipelines=["till"], job="full", **options)
    return {result.stage for result in results if result.stage in ALL and not result.skipped}


def scores(settings: Settings) -> list[dict[str, Any]]:
    return query(settings, "select customer, next_spend, size from predictions_till order by customer").to_pylist()


def features(settings: Settings) -> list[float]:
    table = query(settings, "select spent from features_till where as_of = date '2026-01-06' order by customer")
    return [float(value) for value in table["spent"].to_pylist()]


def test_each_edit_does_again_what_it_concerns(project: Path, settings: Settings) -> None:
    declaration, helpers = project / "pipelines" / "till.py", project / "helpers.py"
    assert run(settings) == ALL
    first, spent = scores(settings), features(settings)
    assert max(row["next_spend"] for row in first) > 30

    edit(declaration, '"mae": 900.0', '"mae": 800.0')
    edit(declaration, '"""Spent up to the day."""', '"""What was spent."""')
    edit(helpers, "return 1", "return 2  # a comment")
    assert run(settings) == set()

    edit(declaration, "maximum=1000.0", "maximum=20.0")
    edit(declaration, "bounds=(25.0,)", "bounds=(10.0,)")
    assert run(settings) == {"score", "publish"}
    expected = [min(row["next_spend"], 20.0) for row in first]
    limited = scores(settings)
    assert [row["next_spend"] for row in limited] == expected
    assert [row["size"] for row in limited] == ["small" if value < 10 else "large" for value in expected]

    edit(helpers, "DISCOUNT = 1.0", "DISCOUNT = 2.0")
    assert run(settings) >= {"features", "training_set", "train", "score"}
    assert features(settings) == [2 * value for value in spent]
    assert run(settings, rebuild=True) >= {"features", "training_set", "train", "score"}
