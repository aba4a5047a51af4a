"""What a trial has computed from equal inputs is taken over by the environment: nothing is computed twice, and the rows
and models are those of a run from nothing, also if the process is killed at any step or something moved in between."""

import shutil
import signal
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from adopt_job import Ran, run_and_tell, run_date, run_until
from store_services import minio_server
from tried_base import end, objects
from try_job import DAYS, contents, copy_project, land_sales, run_from_nothing, try_full
from warm import start, start_with_trainers

from forecache.base.settings import Settings, load_settings, trial_settings
from forecache.kit.delta.tables import open_table
from forecache.models.tracking.client import connect_mlflow
from forecache.plugins.trials.trial import remove
from forecache.runs import Job

pytestmark = [pytest.mark.faults, pytest.mark.slow]
FEATURE = ("count(*) AS purchases", "count(*) * 2 AS purchases")
PROVENANCE = ("scored_at", "run_id", "model_version", "feature_version")


def rows_of(settings: Settings, table: str, *, but: tuple[str, ...] = ("scored_at", "run_id")) -> list[dict[str, Any]]:
    rows = open_table(settings, table).to_pyarrow_table().to_pylist()
    kept = [{name: value for name, value in row.items() if name not in but} for row in rows]
    return sorted(kept, key=lambda row: (str(row["as_of"]), row["customer"]))


class Sides:
    """An installation, a trial in it of a change with a full run, and what the changed project gives from nothing."""

    def __init__(self, folder: Path, places: Mapping[str, Any] = {}) -> None:
        self.places = places
        self.folder, self.home = folder, folder / "home"
        self.old, self.new, self.truth = folder / "before", folder / "after", load_settings("", home=folder / "truth")

    @classmethod
    def make(cls, folder: Path, places: Mapping[str, Any] = {}) -> "Sides":
        made = cls(folder, places)
        copy_project(made.old)
        copy_project(made.new, before=FEATURE[0], after=FEATURE[1])
        for project, home, of in ((made.old, made.home, places), (made.new, made.truth.home_path, {})):
            land_sales(home / "landing")
            end(start_with_trainers(run_from_nothing, project, home, of))
        end(start_with_trainers(try_full, made.new, made.home, "change", places))
        return made

    def run(self, job: Job = "full") -> Ran:
        """Run the changed project in the installation; the trial is only read."""
        before = self.read_trial_contents()
        ran = run_and_tell(start, self.new, self.home, job, self.places)
        assert self.read_trial_contents() == before
        return ran

    def read_trial_contents(self) -> dict[str, str]:
        remote = self.settings.lake_is_remote
        found = objects(self.settings, self.settings.trials_uri) if remote else {}
        return contents(self.folder / "home-trials") | found

    @property
    def settings(self) -> Settings:
        return load_settings("", home=self.home, **self.places)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return Sides.make(tmp_path_factory.mktemp("sides"))


@pytest.fixture
def sides(made: Sides, tmp_path: Path) -> Sides:
    shutil.copytree(made.folder, tmp_path / "sides")
    found = Sides(tmp_path / "sides")
    connect_mlflow(trial_settings(found.settings, "change"))  # its paths are those of the copy from now on
    return found


def test_a_changed_feature_is_computed_in_the_trial_alone(sides: Sides) -> None:
    ran = sides.run()
    assert ran.computed == []
    assert ran.taken_over == ["features habits", "features spend", "score spend", "train spend", "training_set spend"]
    for table in ("features_habits", "features_spend"):
        assert rows_of(sides.settings, table) == rows_of(sides.truth, table)
    ours, theirs = (rows_of(each, "predictions_spend", but=PROVENANCE) for each in (sides.settings, sides.truth))
    assert ours == theirs
    assert sides.run("nightly").worked == []


def test_rows_name_the_versions_of_the_environment_if_other_dates_were_run_in_between(sides: Sides) -> None:
    end(start(run_date, sides.old, sides.home, DAYS[-1] - timedelta(days=1)))
    ran = sides.run()
    assert ran.computed == []
    rows = [row for row in rows_of(sides.settings, "predictions_spend") if row["as_of"] == DAYS[-1]]
    assert {row["feature_version"] for row in rows} == {ran.feature_version}
    trial = trial_settings(sides.settings, "change")
    theirs = {row["feature_version"] for row in rows_of(trial, "predictions_spend") if row["as_of"] == DAYS[-1]}
    assert theirs != {ran.feature_version}


def test_what_moved_in_between_is_said_and_computed(sides: Sides) -> None:
    late = sides.home / "landing" / "sales" / f"{DAYS[-1]}-late.csv"
    late.write_text(f"customer,day,amount\n7,{DAYS[-1]},12.5\n")
    ran = sides.run("nightly")
    assert ran.computed == ["features customer", "features habits", "features spend", "score spend"]
    why = f"features of habits for {DAYS[-1]} is computed: the trial local/change did it, but raw_sales is at "
    assert any(line.startswith(why) for line in ran.said)


def test_rows_of_a_trial_that_cannot_be_read_are_computed(sides: Sides) -> None:
    trial = trial_settings(sides.settings, "change")
    for path in (Path(trial.lake_uri) / "features_habits").rglob("*.parquet"):
        content = path.read_bytes()
        path.unlink()  # the environment has hard links to some
        path.write_bytes(content[:20] + bytes(len(content) - 40) + content[-20:])
    ran = sides.run("nightly")
    assert "features habits" in ran.computed
    assert rows_of(sides.settings, "features_habits") == rows_of(sides.truth, "features_habits")


def test_a_damaged_trial_does_not_stop_the_environment(sides: Sides) -> None:
    (trial_settings(sides.settings, "change").home_path / "trial.json").write_text("{")
    ran = sides.run("nightly")
    assert ran.taken_over == []
    assert {"features habits", "features spend", "score spend"} <= set(ran.computed)
    assert any(line.startswith("nothing is taken over from trials: ") for line in ran.said)
    assert rows_of(sides.settings, "features_spend") == rows_of(sides.truth, "features_spend")


def test_a_trial_that_is_removed_while_it_is_read_is_left_out(sides: Sides) -> None:
    for name in ("features_habits", "features_spend"):
        shutil.rmtree(Path(trial_settings(sides.settings, "change").lake_uri) / name / "_delta_log")
    ran = sides.run("nightly")
    assert {"features habits", "features spend"} <= set(ran.computed)
    assert rows_of(sides.settings, "features_spend") == rows_of(sides.truth, "features_spend")


@pytest.mark.parametrize("step", ["decided", "committed"])
def test_a_kill_at_a_step_of_taking_over_is_finished_by_the_next_run(sides: Sides, step: str) -> None:
    process = start(run_until, sides.new, sides.home, step, {})
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert sides.run().computed == []
    assert rows_of(sides.settings, "features_spend") == rows_of(sides.truth, "features_spend")


def test_a_trial_in_a_bucket_is_taken_over_by_copies_also_after_kills(tmp_path: Path) -> None:
    with minio_server(tmp_path / "minio", "cloud") as options:
        places = {"lake": "s3://cloud/lake", "trials": "s3://cloud/tried", "storage_options": options}
        sides = Sides.make(tmp_path, places)
        for step in ("decided", "committed"):
            process = start(run_until, sides.new, sides.home, step, places)
            process.join(300)
            assert process.exitcode == -signal.SIGKILL
        ran = sides.run()
        assert ran.computed == []
        assert {"score spend", "train spend", "training_set spend"} <= {*ran.taken_over}
        own = objects(sides.settings, "s3://cloud/lake")
        remove(sides.settings, "change")
        assert objects(sides.settings, "s3://cloud/tried") == {}
        assert objects(sides.settings, "s3://cloud/lake") == own
        for table in ("features_habits", "features_spend"):
            assert rows_of(sides.settings, table) == rows_of(sides.truth, table)
        ours, theirs = (rows_of(each, "predictions_spend", but=PROVENANCE) for each in (sides.settings, sides.truth))
        assert ours == theirs
        assert sides.run("nightly").worked == []
