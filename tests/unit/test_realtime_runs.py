"""Real-time models among what runs: how they are found, in which order they run, and what a job holds together."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from offered_project.pipelines.offers import offers
from offered_project.views import VISITS, household, product

from assets.realtime import build_released, views_of_one_range
from forecache.base.settings import Settings, load_settings
from forecache.cli.resolve_names import resolve_nightly_names, resolve_pipeline_names, resolve_trained_names
from forecache.declare import Lookup
from forecache.declare.loading import load_nightly, load_trained, read_project
from forecache.models.registry.gate.loaded_model import CandidateModel, score_features
from forecache.plugins.historical_features.command import find_views
from forecache.plugins.maintenance.lake import own_tables
from jobs.realtime import realtime_nightly_selection


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, project="offered_project")


def test_real_time_models_are_trained_and_run_by_name(home: Settings) -> None:
    project = read_project(home)
    assert list(project.trained_models) == ["offers", "takers"]
    assert project.trained_models["offers"] is project.realtime["offers"]
    assert project.standalone_views == {}
    assert load_nightly(home, "offers") is project.realtime["offers"]
    assert load_trained(home, "offers").training_table == "training_set_offers"
    assert (
        resolve_trained_names(home, [])
        == resolve_nightly_names(home, [])
        == resolve_pipeline_names(home, [])
        == ["offers", "takers"]
    )
    assert [view.name for view in find_views(home, ["offers"])] == ["household", "product", "pair", "taste"]
    assert [view.name for view in find_views(home, ["pair"])] == ["pair"]


def test_real_time_models_run_after_what_they_may_fall_back_on() -> None:
    from sample_project.pipelines.visits import returns

    from forecache.declare.project import Project

    project = Project({"returns": returns}, {}, realtime={"offers": offers})
    assert list(project.nightly) == ["returns", "offers"]
    assert "offers" not in project.publishable


def test_maintenance_knows_the_tables_of_a_real_time_model() -> None:
    assert {"training_set_offers", "raw_shown", "raw_visits", "quarantine_shown"} <= set(own_tables(offers))


def test_a_view_whose_source_begins_on_another_day_is_built_by_the_step_that_releases() -> None:
    later = replace(VISITS, name="later_visits", start=date(2026, 1, 5))
    apart = replace(product, name="late_product", sources=(later,))
    realtime = replace(offers, lookups=(Lookup(household), Lookup(apart, name="product"), *offers.lookups[2:]))
    assert [view.name for view in views_of_one_range(realtime)] == ["household", "pair", "taste"]
    chosen = str(realtime_nightly_selection(realtime))
    assert "features_household" in chosen
    assert "features_late_product" not in chosen
    released = build_released(realtime)
    assert "published_late_product" in {key.to_user_string() for key in released.dependency_keys}


def test_requests_are_scored_one_after_the_other_as_they_are_asked() -> None:
    seen: list[int] = []

    class Model:
        output: Any = None

        def predict(self, features: np.ndarray) -> np.ndarray:
            seen.append(len(features))
            return features[:, 0]

    features = np.arange(12, dtype=np.float32).reshape(6, 2)
    scores = score_features(cast(CandidateModel, Model()), features, sizes=np.array([2, 1, 3]))
    assert seen == [2, 1, 3]
    assert scores.tolist() == features[:, 0].tolist()
    seen.clear()
    score_features(cast(CandidateModel, Model()), features)
    assert seen == [6]
