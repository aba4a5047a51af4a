"""What a trial has computed for recommenders, real-time models and features on Spark's frames is taken over, too; and
what a new version of a package makes run of a real-time model."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import shelf_project
from adopt_job import Ran, run_and_note, run_until_table_is_replaced
from edited_project import EditedProject, edited_project
from new_version import new_version_of
from shelf_lake import landing_of
from shelf_project.pipelines.shelf import offers
from try_job import DAYS, contents, land_sales
from warm import start

from forecache.base.settings import Settings, load_settings, trial_settings
from forecache.kit.delta.tables import open_table
from forecache.kit.installation import open_state
from forecache.kit.versioned.pointer import read_pointer
from forecache.lake.ledger import last_record
from forecache.operations.release import recorded_requests, requests_file
from forecache.plugins.plan.make_plan import plan_run
from forecache.plugins.trials.run_trial import choose, open_trial, run_trial
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.load import LoadedRelease, load_release
from forecache.runs import Job, RunRequest

pytestmark = pytest.mark.slow
PROVENANCE = ("scored_at", "run_id", "model_version", "feature_version")


@dataclass(frozen=True)
class Changed:
    """An installation beside a trial of a change, which it then runs itself, and what a run from nothing gives."""

    base: Settings
    trial: Settings
    truth: Settings
    ran: Ran

    def require_equal(self, *tables: str) -> None:
        for table in tables:
            assert rows_of(self.base, table) == rows_of(self.truth, table)
            assert rows_of(self.trial, table) == rows_of(self.truth, table)


def rows_of(settings: Settings, table: str) -> list[dict[str, Any]]:
    rows = open_table(settings, table).to_pyarrow_table().to_pylist()
    return sorted(({name: value for name, value in row.items() if name not in PROVENANCE} for row in rows), key=repr)


@contextmanager
def changed(
    folder: Path, sample: str, name: str, night: date, land: Callable[[Settings], object],
    change: Callable[[EditedProject], object], *, job: Job = "nightly",
    first: Callable[[Settings], object] = lambda _: None,
) -> Iterator[Changed]:  # fmt: skip
    """Run a sample, try a change of it, do something `first`, run the change, and the same from nothing."""
    base, truth = (load_settings("", home=folder / home, project=sample) for home in ("home", "truth"))
    with edited_project(folder, sample) as project:
        for settings in (base, truth):
            land(settings)
        run_and_note(base, name, night, job)
        change(project)
        before = contents(base.home_path)
        with open_trial(base, "change") as run:
            run_trial(run, choose(run, (name,), ((night, night),), job), job)
        assert contents(base.home_path) == before
        tried = contents(folder / "home-trials")
        first(base)
        ran = run_and_note(base, name, night, job)
        assert contents(folder / "home-trials") == tried
        run_and_note(truth, name, night, job)
        assert run_and_note(base, name, night).worked == []
        yield Changed(base, trial_settings(base, "change"), truth, ran)


def test_lists_of_a_recommender_are_ranked_in_the_trial_alone(tmp_path: Path) -> None:
    night = shelf_project.LAST
    with changed(
        tmp_path, "shelf_project", "offers", night, lambda settings: shelf_project.land(landing_of(settings)),
        lambda project: project.edit("pipelines/shelf", "l2=20.0", "l2=5.0"),
    ) as found:  # fmt: skip
        assert found.ran.computed == []
        assert found.ran.taken_over == ["recommend offers"]
        found.require_equal(*(table.prediction_table for table in offers.tables))
        ours, theirs = (last_record(settings, "recommend", "offers", night) for settings in (found.base, found.truth))
        assert ours is not None
        assert theirs is not None
        took = {"cost", "fit_s", "rank_s", "source_version"}
        assert {key: value for key, value in ours.details.items() if key not in took} == {
            key: value for key, value in theirs.details.items() if key not in took
        }


def land(settings: Settings) -> None:
    land_sales(Path(settings.landing_uri))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, spark: Any) -> Iterator[Changed]:
    folder = tmp_path_factory.mktemp("large")

    def die_between_table_and_recorded_requests(base: Settings) -> None:
        open_state(base).write(requests_file("large"), b"[]")  # as if the training before had known no requests
        process = start(run_until_table_is_replaced, folder, "framed_project", base.home_path, DAYS[-1], "full")
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
        assert recorded_requests(base, "large") == []
        assert rows_of(base, "training_set_large") == rows_of(trial_settings(base, "change"), "training_set_large")

    with changed(
        folder, "framed_project", "large", DAYS[-1], land,
        # Not the transform: Spark's workers keep what they have imported of it for a minute.
        lambda project: project.edit("pipelines/large", 'F.col("amount") > 50', 'F.col("amount") > 40'), job="full",
        first=die_between_table_and_recorded_requests,
    ) as found:  # fmt: skip
        yield found


def test_the_training_set_of_a_real_time_model_is_made_in_the_trial_alone(large: Changed) -> None:
    assert large.ran.computed == []
    # Also the training set, whose table a killed run had taken over, and not the requests that it holds.
    assert large.ran.taken_over == ["train large", "training_set large"]
    large.require_equal("training_set_large")
    assert recorded_requests(large.base, "large") == recorded_requests(large.truth, "large") != []
    ours, theirs = (current_release(settings, "large") for settings in (large.base, large.truth))
    assert ours.warmup == theirs.warmup
    assert ours.release.model.spec == theirs.release.model.spec
    assert ours.release.features == theirs.release.features


def test_a_new_version_of_the_models_package_makes_the_release_alone_run_as_planned(large: Changed) -> None:
    request = RunRequest(["large"], nights=(DAYS[-1], DAYS[-1]))
    assert not plan_run(large.base, request).has_work
    before = current_release(large.base, "large").release
    with new_version_of("lightgbm"):
        [stage] = plan_run(large.base, request).stages
        [cause] = stage.causes
        assert (stage.stage, stage.subject) == ("release", "large")
        installed = before.model.spec.packages["lightgbm"]
        assert cause == f"`model.3.lightgbm` '{installed}' -> '{installed}.1'"
        assert run_and_note(large.base, "large", DAYS[-1]).worked == ["release large"]
        assert not plan_run(large.base, request).has_work
        after = current_release(large.base, "large").release
    assert (after.number, after.model.version) == (before.number + 1, before.model.version)
    old, new = before.model.spec.packages, after.model.spec.packages
    assert new == {**old, "lightgbm": f"{installed}.1"}


def current_release(settings: Settings, name: str) -> LoadedRelease:
    folder = open_releases(settings, name)
    number = read_pointer(folder).current
    assert number is not None
    loaded = load_release(folder, number)
    loaded.close()
    return loaded


def test_features_of_a_function_on_frames_are_computed_in_the_trial_alone(tmp_path: Path, spark: Any) -> None:
    with changed(
        tmp_path, "framed_project", "spend", DAYS[-1], land,
        lambda project: project.edit("pipelines/spend", 'F.count("*")', '(F.count("*") * 2)'),
    ) as found:  # fmt: skip
        assert found.ran.computed == []
        assert found.ran.taken_over == ["features habits", "score spend"]
        found.require_equal("features_habits", "predictions_spend")
        assert rows_of(found.base, "predictions_spend") != []
