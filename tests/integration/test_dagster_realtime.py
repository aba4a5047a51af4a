"""A real-time model through the orchestrator and the command line: views, training, gate, release, in one run."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from offered_project.pipelines.offers import offers
from offered_sample import NIGHT, land_offers, shown, visits

from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.declare.loading import load_trainable
from forecache.kit.versioned.pointer import read_pointer
from forecache.models.registry.gate.verdicts import load_verdict
from forecache.models.registry.model_versions import champion
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.load import load_release
from jobs.definitions import build_definitions
from resources.instance import runner_instance

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).parent.parent / "support"
STAGES = ["features", "publish", "training_set", "train", "register", "release"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, spark: Any) -> Settings:
    """Landed files of sixteen days; uses the shared Spark session."""
    folder = tmp_path_factory.mktemp("offered") / "home"
    settings = load_settings(home=folder, project="offered_project", spark_master="local[2]")
    land_offers(settings, visits(), shown(per_day=150))
    return settings


@pytest.fixture(autouse=True)
def here(home: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    monkeypatch.setenv("FORECACHE_HOME", str(home.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "offered_project")


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main([*arguments, "--date", str(NIGHT), "--json"]) == 0
    stages: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return [stage for stage in stages if stage["stage"] != "ingest"]


def test_assets_jobs_and_schedules_of_a_real_time_model(home: Settings) -> None:
    definitions = build_definitions(home)
    graph = definitions.resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert {"training_set_offers", "candidate_offers", "model_offers", "released_offers"} <= keys

    def parents(name: str) -> set[str]:
        return {key.to_user_string() for key in graph.get(dg.AssetKey([name])).parent_keys}

    views = ("household", "pair", "product", "taste")
    assert parents("training_set_offers") == {"raw_shown", *(f"features_{view}" for view in views)}
    assert parents("released_offers") == {"model_offers", *(f"published_{view}" for view in views)}
    repository = definitions.get_repository_def()
    assert {"offers_nightly", "offers_training", "offers_full"} <= set(repository.job_names)
    schedules = {schedule.name for schedule in repository.schedule_defs}
    assert {"offers_nightly_schedule", "offers_training_schedule"} <= schedules


def test_the_first_run_trains_publishes_and_releases(home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    stages = ran(capsys, "run", "offers")
    assert {stage["stage"] for stage in stages} == set(STAGES)
    assert [stage["subject"] for stage in stages if stage["stage"] == "publish"] == [
        "household",
        "pair",
        "product",
        "taste",
    ]
    settings = home
    version = champion(settings, offers)
    verdict = load_verdict(version)
    assert verdict is not None
    assert verdict.passed
    folder = open_releases(settings, "offers")
    current = read_pointer(folder).current
    assert current == 1
    loaded = load_release(folder, current)
    assert len(loaded.warmup) == 50
    assert loaded.release.model.version == version.version
    loaded.close()


def test_a_second_run_does_nothing_and_a_training_releases_again(
    home: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = ran(capsys, "run", "offers")
    assert {stage["stage"] for stage in stages} == {"features", "publish", "release"}
    assert all(stage["skipped"] for stage in stages)
    stages = ran(capsys, "train", "offers")
    assert [(stage["stage"], stage["skipped"]) for stage in stages] == [
        ("training_set", True),
        ("train", True),
        ("register", True),
        ("release", True),
    ]
    assert main(["models", "list", "offers", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)
    assert np.isfinite(model["metrics"]["ndcg@5"])
    assert load_trainable(home, "offers") == offers


def test_the_run_is_shown_with_its_metadata(home: Settings) -> None:
    with runner_instance(home) as instance:
        made = instance.get_latest_materialization_event(dg.AssetKey(["released_offers"]))
        splits = instance.get_latest_materialization_event(dg.AssetKey(["training_set_offers"]))
    assert made is not None
    assert made.asset_materialization is not None
    assert made.asset_materialization.metadata["release"].value == 1
    assert splits is not None
    assert splits.asset_materialization is not None
    assert "2026-01-14, 2026-01-15" in str(splits.asset_materialization.metadata["splits"].value)
