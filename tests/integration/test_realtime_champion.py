"""A release follows the champion: a promotion makes one, and a model that is rolled back answers no more requests."""

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
import registry_sample
from asked_project import transforms
from asked_project.pipelines.search import search
from ranking_sample import write_requests

from forecache.base.errors import CheckError, NotFoundError
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.declare import Feature, Log
from forecache.kit.delta.tables import append_rows
from forecache.kit.versioned.pointer import read_pointer
from forecache.lake.split_rows import split_batches
from forecache.models.registry.model_versions import champion
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.operations.release import release_model
from forecache.plugins.drift.log_monitoring import monitor_log
from forecache.plugins.drift.measurements import measurements
from forecache.plugins.drift.orchestration import build_logged_drift, define_log_monitoring
from forecache.realtime.log.record import schema, table_of
from forecache.realtime.release.folder import open_releases, read_release
from forecache.realtime.release.load import load_release
from jobs.realtime import realtime_definitions
from resources.settings_resource import SettingsResource

pytestmark = pytest.mark.slow

WEIGHTS = ((2.0, 1.0, 0.0), (2.4, 1.2, 0.0))


def new_champion(settings: Settings, weights: tuple[float, ...]) -> int:
    pipeline = search
    made_up = registry_sample.made_up_training(settings, pipeline, weights, training_version=2)
    training = replace(made_up, details={**made_up.details, "estimator": {"class": "none", "parameters": {}}})
    version = int(register_trained_model(settings, pipeline, training).details["model_version"])
    assert run_gate(settings, pipeline, version, actor="test").champion_after == version
    return version


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which two models were champion and were released."""
    settings = load_settings(home=tmp_path_factory.mktemp("champions") / "home")
    write_requests(settings, search)
    with pytest.raises(NotFoundError, match="champion"):
        release_model(settings, search)
    for number, weights in enumerate(WEIGHTS, 1):
        assert new_champion(settings, weights) == number
        done = release_model(settings, search)
        assert not done.skipped
        model = {"name": "search", "version": number}
        assert done.details == {"release": number, "model": model, "model_uri": f"models:/search/{number}"}
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
    assert "Release 1 of search answers now: model search 1 (models:/search/1)." in capsys.readouterr().out
    assert read_pointer(folder).current == 1
    assert release_model(champions, search).skipped
    assert main(["release", "list", "search", "--json"]) == 0
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
        release_model(champions, replace(search, **changed))
    assert read_pointer(open_releases(champions, "search")).current == 2


def test_what_is_not_learned_is_released_without_training(champions: Settings) -> None:
    slower = replace(search, deadline_ms=80.0, features=(*search.features[:2], Feature("price_log", "of the price")))
    assert release_model(champions, slower).details["release"] == 3
    assert read_release(open_releases(champions, "search"), 3).deadline_ms == 80.0


def test_a_model_that_is_promoted_by_hand_answers_requests(
    champions: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = search
    made_up = registry_sample.made_up_training(champions, pipeline, (2.8, 1.4, 0.0), training_version=2)
    training = replace(made_up, details={**made_up.details, "estimator": {"class": "none", "parameters": {}}})
    assert register_trained_model(champions, pipeline, training).details["model_version"] == 3
    monkeypatch.setenv("FORECACHE_HOME", str(champions.home))
    monkeypatch.setenv("FORECACHE_PROJECT", "asked_project")
    assert main(["promote", "search", "3"]) == 0
    assert "Release 3 of search answers now: model search 3 (models:/search/3)." in capsys.readouterr().out
    assert read_release(open_releases(champions, "search"), 3).model.version == 3


def test_a_days_logged_requests_are_held_against_the_training_data_of_the_model(
    champions: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows of the training split, logged as one request, have not moved; the same with other prices have."""
    loaded = load_release(open_releases(champions, "search"), 2)
    reference, names = loaded.reference, loaded.release.features
    assert reference is not None
    assert [column.name for column in reference.columns] == [*names, "score"]
    table, version = champion(champions, search).training_table
    assert reference.of == f"training split of {table}@{version}"
    batches = split_batches(champions, table, version=version, split="train", columns=names)
    rows = np.concatenate([np.column_stack([batch.column(name) for name in names]) for batch in batches])
    features = rows.astype(np.float32)
    moved = features.copy()
    moved[:, 0] = moved[:, 0] * 3 + 1000
    moved[::2, 1] = np.nan
    for day, logged in ((date(2026, 11, 1), features), (date(2026, 11, 2), moved)):
        answer = {
            "request_id": f"{day}", "day": day, "variant": "current", "items": len(logged), "release": 2,
            "features": logged.tobytes(), "scores": loaded.scores_of(features).tobytes(), "answered_by": "model",
            "score_dtype": loaded.scores_of(features).dtype.name,
        }  # fmt: skip
        others = [{**answer, "variant": "shadow"}, {**answer, "features": None, "answered_by": "default"}]
        table_rows = pa.Table.from_pylist([answer, *others], schema=schema())
        append_rows(champions, table_of("search"), table_rows, partition_by=("day",))
    loaded.close()
    monkeypatch.setenv("FORECACHE_HOME", str(champions.home))
    monkeypatch.setenv("FORECACHE_PROJECT", "asked_project")
    assert main(["monitor", "search", "--date", "2026-11-01", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["answers"], told["notes"]) == (3, [])
    calm = {row["name"]: row for row in told["figures"]}
    assert set(calm) == {*names, "score"}
    assert {name: row["effect"] for name, row in calm.items() if name != "score"} == dict.fromkeys(names, 0.0)
    assert calm[names[0]]["rows"] == calm[names[0]]["reference_rows"] == len(features)
    assert not monitor_log(champions, search, date(2026, 11, 2)).skipped
    assert monitor_log(champions, search, date(2026, 11, 2)).skipped
    drifted = {row.name: row for row in measurements(champions, "search", first=date(2026, 11, 2))}
    assert {name for name in names if drifted[name].effect > 0.25} == set(names[:2])
    assert drifted[names[1]].value == pytest.approx(0.5 + calm[names[1]]["value"] / 2, abs=0.01)
    with pytest.raises(NotFoundError, match="Nothing of search was logged on 2026-11-03"):
        monitor_log(champions, search, date(2026, 11, 3))
    with dg.DagsterInstance.ephemeral() as instance:
        done, refused = (
            dg.materialize(
                [build_logged_drift(search)],
                resources={"settings": SettingsResource(home=str(champions.home_path), project="asked_project")},
                run_config={"ops": {"logged_drift_search": {"config": {"day": day}}}},
                instance=instance,
                raise_on_error=False,
            )
            for day in ("2026-11-02", "yesterday")
        )
    [failed] = refused.get_step_failure_events()
    assert "The configured day 'yesterday' is no date." in str(failed.event_specific_data)
    [check] = done.get_asset_check_evaluations()
    assert not check.passed
    assert names[0] in (check.description or "")
    logged = replace(search, log=Log("household_id"))
    defined = dg.Definitions.merge(realtime_definitions(logged), define_log_monitoring(logged))
    assert {job.name for job in defined.jobs or ()} >= {"search_monitor", "search_nightly"}
    assert "30 0 * * *" in {each.cron_schedule for each in defined.schedules or ()}
