"""A release follows the champion: a promotion makes one, and a model that is rolled back answers no more requests."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import registry_sample
from asked_project import transforms
from asked_project.pipelines.search import search
from ranking_sample import write_requests

from forecache.cli.main import main
from forecache.errors import CheckError, NotFoundError
from forecache.operations.release import release
from forecache.pipeline import Feature
from forecache.realtime.release.folder import open_releases, read_current, read_release
from forecache.realtime.release.load import load_release
from forecache.registry.gate.gate import run_gate
from forecache.registry.versions.register import register
from forecache.settings import Settings, load_settings

pytestmark = pytest.mark.slow

WEIGHTS = ((2.0, 1.0, 0.0), (2.4, 1.2, 0.0))


def new_champion(settings: Settings, weights: tuple[float, ...]) -> int:
    pipeline = search.training_pipeline
    made_up = registry_sample.made_up_training(settings, pipeline, weights, training_version=2)
    training = replace(made_up, details={**made_up.details, "estimator": {"class": "none", "parameters": {}}})
    version = int(register(settings, pipeline, training).details["model_version"])
    assert run_gate(settings, pipeline, version, actor="test").champion_after == version
    return version


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which two models were champion and were released."""
    settings = load_settings(home=tmp_path_factory.mktemp("champions") / "home")
    write_requests(settings, search.training_pipeline)
    with pytest.raises(NotFoundError, match="champion"):
        release(settings, search)
    for number, weights in enumerate(WEIGHTS, 1):
        assert new_champion(settings, weights) == number
        done = release(settings, search)
        assert not done.skipped
        assert done.details == {"release": number, "model": {"name": "search", "version": number}}
    return settings.home_path


@pytest.fixture
def champions(settings: Settings, prepared: Path) -> Settings:
    shutil.copytree(prepared, settings.home_path)
    return settings


def test_the_champion_answers_until_it_is_rolled_back(
    champions: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = open_releases(champions, "search")
    assert read_release(folder, 2).model.runtime == "onnx"
    loaded = load_release(folder, 2)
    assert loaded.release.lookups[1].contract == search.lookups[1].view.packed.contract
    loaded.close()
    monkeypatch.setenv("FORECACHE_HOME", str(champions.home))
    monkeypatch.setenv("FORECACHE_PROJECT", "asked_project")
    assert main(["models", "rollback", "search", "--reason", "worse"]) == 0
    assert "Release 1 of search answers now." in capsys.readouterr().out
    assert read_current(folder).current == 1
    assert release(champions, search).skipped
    assert main(["releases", "search", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(row["release"], row["model_version"], row["state"]) for row in listed] == [(2, 2, []), (1, 1, ["current"])]


@pytest.mark.parametrize(
    "changed",
    [
        {"transform": transforms.reversed_price},
        {"candidates": None},
        {
            "lookups": (
                replace(search.lookups[0], view=replace(search.lookups[0].view, active_days=14)),
                search.lookups[1],
            )
        },
    ],
    ids=["transform", "fields", "view"],
)
def test_a_champion_that_was_trained_with_something_else_is_not_released(
    champions: Settings, changed: dict[str, Any]
) -> None:
    if "candidates" in changed:
        other = replace(search.candidates.fields[1], default=2.0)
        changed = {"candidates": replace(search.candidates, fields=(search.candidates.fields[0], other))}
    with pytest.raises(CheckError, match="version 2 was trained with another transform, other request fields or other"):
        release(champions, replace(search, **changed))
    assert read_current(open_releases(champions, "search")).current == 2


def test_what_is_not_learned_is_released_without_training(champions: Settings) -> None:
    slower = replace(search, deadline_ms=80.0, features=(*search.features[:2], Feature("price_log", "of the price")))
    assert release(champions, slower).details["release"] == 3
    assert read_release(open_releases(champions, "search"), 3).deadline_ms == 80.0


def test_a_model_that_is_promoted_by_hand_answers_requests(
    champions: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = search.training_pipeline
    made_up = registry_sample.made_up_training(champions, pipeline, (2.8, 1.4, 0.0), training_version=2)
    training = replace(made_up, details={**made_up.details, "estimator": {"class": "none", "parameters": {}}})
    assert register(champions, pipeline, training).details["model_version"] == 3
    monkeypatch.setenv("FORECACHE_HOME", str(champions.home))
    monkeypatch.setenv("FORECACHE_PROJECT", "asked_project")
    assert main(["promote", "search", "3"]) == 0
    assert "Release 3 of search answers now." in capsys.readouterr().out
    assert read_release(open_releases(champions, "search"), 3).model.version == 3
