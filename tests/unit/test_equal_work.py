"""Texts of inputs in a trial and in the environment that it defers to: which versions are equal."""

import subprocess
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from forecache.base.environments import require_name
from forecache.base.settings import load_settings
from forecache.declare import load_pipeline
from forecache.lake.ingest.ingested_files import IngestedFile, record_files
from forecache.plugins.trials.equal_work import OTHER_WORK, OtherSide, other_sides
from forecache.plugins.trials.run_trial import default_name
from forecache.plugins.trials.trial import Trial
from forecache.plugins.window_features.nights import day_states

DAY, NEXT = date(2026, 1, 9), date(2026, 1, 10)


@pytest.fixture
def side(tmp_path: Path) -> OtherSide:
    settings = load_settings(home=tmp_path / "home", project="windowed_project")
    forked = {"features_x": 7, "raw_sales": 3}
    made = Trial("t", "local", "", "", datetime.now(timezone.utc), "", forked, {"spend": 2})
    return OtherSide(settings, settings, made)


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ("features_x@7 code=ab", "features_x@7 code=ab", ""),
        ("features_x@7 code=ab", "features_x@7 code=cd", OTHER_WORK),
        ("features_x@6 code=ab", "features_x@7 code=ab", "features_x is at 7 here, and was at 6 there"),
        ("features_x@9 code=ab", "features_x@9 code=ab", "features_x is at 9 here, and was at 9 there"),
        ("model=spend@2 features_x@7", "model=spend@2 features_x@7", ""),
        ("model=rule@4 of=12ab features_x@7", "model=rule@5 of=12ab features_x@7", ""),
        ("model=rule@4 of=12ab features_x@7", "model=rule@4 of=34cd features_x@7", OTHER_WORK),
        ("table_orders@0123456789abcdef", "table_orders@0123456789abcdef", ""),
    ],
)
def test_versions_up_to_the_fork_are_equal_and_later_ones_only_by_what_made_them(
    side: OtherSide, theirs: str, ours: str, expected: str
) -> None:
    assert side.find_difference(theirs, ours, DAY) == expected


def test_rows_of_the_same_files_are_equal_only_if_the_trial_had_all_of_them(side: OtherSide, tmp_path: Path) -> None:
    side = replace(side, trial=load_settings(home=tmp_path / "trial", project="windowed_project"))
    for settings in (side.base, side.trial):
        for name, day, version in (("first", DAY - timedelta(days=1), 3), ("late", DAY, 5), ("next", NEXT, 6)):
            record_files(settings, [ingested(name, day, version)])
    assert side.find_difference("raw_sales@5 code=ab", "raw_sales@5 code=ab", DAY) == ""
    told = "raw_sales is at 5 here, and was at 3 there"
    assert side.find_difference("raw_sales@3 code=ab", "raw_sales@5 code=ab", DAY) == told
    assert side.find_difference("raw_sales@5 code=ab", "raw_sales@3 code=ab", DAY) != ""
    assert side.find_difference("raw_sales@6 label=ab", "raw_sales@6 label=ab", None) == ""
    assert side.find_difference("raw_sales@5 label=ab", "raw_sales@6 label=ab", None) != ""


def test_days_of_files_that_were_corrected_in_between_are_not_equal(side: OtherSide, tmp_path: Path) -> None:
    side = replace(side, trial=load_settings(home=tmp_path / "trial", project="windowed_project"))
    view = load_pipeline(side.base, "spend").views[0]
    for settings in (side.base, side.trial):
        record_files(settings, [ingested("first", DAY, 3), ingested("next", NEXT, 4)])
    theirs, ours = (day_states(settings, view)[NEXT] for settings in (side.trial, side.base))
    assert side.find_difference(theirs, ours, NEXT) == ""
    record_files(side.base, [replace(ingested("next", NEXT, 4), sha256="corrected")])
    theirs, ours = (day_states(settings, view)[NEXT] for settings in (side.trial, side.base))
    assert theirs == ours  # by names, versions and numbers of rows
    assert replace(side).find_difference(theirs, ours, NEXT).startswith("other files were ingested here, and there")


def ingested(name: str, day: date, version: int) -> IngestedFile:
    now = datetime.now(timezone.utc)
    return IngestedFile("sales", name, day, 10, now, name, 1, 1, 0, None, version, now, "", "")


@pytest.mark.parametrize("note", ["null", "{", None])
def test_a_trial_that_cannot_be_read_stops_no_run_of_the_environment(side: OtherSide, note: str | None) -> None:
    path, said = side.base.trials_path / "t" / "trial.json", list[str]()
    path.parent.mkdir(parents=True)
    path.write_text(note) if note else path.mkdir()
    assert other_sides(side.base, lambda message, share: said.append(message)) == []
    assert [line.startswith("nothing is taken over from trials: ") for line in said] == [True]


@pytest.mark.parametrize(("branch", "name"), [("_wip", "wip"), ("feature/x_", "feature-x"), ("main", "main")])
def test_a_trial_has_the_name_of_the_branch_as_far_as_it_can_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, branch: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    author = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for command in (("init", "-q", "-b", branch), (*author, "commit", "-q", "--allow-empty", "-m", "x")):
        subprocess.run(["git", *command], check=True)
    assert default_name() == require_name(name, kind="a trial")
