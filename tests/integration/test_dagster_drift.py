"""Real materializations of a night's predictions: drift, challenger and report as Dagster shows them."""

import dataclasses
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from scoring_support import NIGHT, features_table, make_pipeline, register_model, write_features

from assets.predictions import build_predictions
from assets.published import build_published
from forecache.base.settings import Settings
from forecache.declare import Drift, Pipeline, Publish
from forecache.plugins.challengers.orchestration import CHALLENGER, build_challenger
from forecache.plugins.challengers.shadow import name_challenger
from forecache.plugins.drift.orchestration import DRIFT, build_drift_report
from jobs.schedules import partition_tags
from resources.settings_resource import SettingsResource

pytestmark = pytest.mark.slow
# The publisher's own gate on drift is not what these tests are about.
PIPELINE = dataclasses.replace(make_pipeline(num_features=4), shadow=True, publish=Publish(max_psi=None))
NIGHTS = [NIGHT + timedelta(days=i) for i in range(4)]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


@pytest.fixture
def lake(settings: Settings, spark: object) -> Settings:
    """Settings whose lake has features of four nights, the last of them far away; the shared Spark session."""
    for night in NIGHTS:
        made = features_table(800, num_features=4, seed=night.toordinal(), night=night)
        for name in ("f1", "f2", "f3") if night == NIGHTS[3] else ():
            moved = pa.array(made[name].to_numpy() + np.float32(8))
            made = made.set_column(made.schema.get_field_index(name), name, moved)
        write_features(settings, PIPELINE, [made], night=night)
    register_model(settings, PIPELINE)
    return settings


def materialize(
    settings: Settings, instance: dg.DagsterInstance, pipeline: Pipeline, first: date, last: date
) -> dg.ExecuteInProcessResult:
    resource = SettingsResource(home=str(settings.home_path), project=settings.project)
    assets = [
        build_predictions(pipeline),
        build_published(pipeline),
        build_drift_report(pipeline),
        build_challenger(pipeline),
    ]
    return dg.materialize(
        assets,
        instance=instance,
        resources={"settings": resource},
        tags=partition_tags(first, last),
        raise_on_error=False,
    )


def evaluations(instance: dg.DagsterInstance, check: str) -> dict[str | None, Any]:
    """The last evaluation of a check of the prediction table for each partition."""
    key = dg.AssetCheckKey(dg.AssetKey(PIPELINE.prediction_table), check)
    records = instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    found = {}
    for entry in reversed(records):
        evaluation = entry.event.dagster_event.asset_check_evaluation_data
        found[evaluation.partition] = evaluation
    return found


def metadata(instance: dg.DagsterInstance, asset: str) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_the_first_night_passes_with_words_and_without_figures(lake: Settings, instance: dg.DagsterInstance) -> None:
    assert materialize(lake, instance, PIPELINE, NIGHTS[0], NIGHTS[0]).success
    drift = evaluations(instance, DRIFT)[NIGHTS[0].isoformat()]
    assert drift.passed
    assert "No date before it was scored." in drift.description
    challenger = evaluations(instance, CHALLENGER)[NIGHTS[0].isoformat()]
    assert challenger.passed
    assert challenger.description == "There is no challenger: nothing was scored beside the champion."
    assert instance.get_latest_materialization_event(dg.AssetKey(PIPELINE.challenger_table)) is None
    report = metadata(instance, f"drift_report_{PIPELINE.name}")
    assert report["reference"].startswith("nothing yet")
    assert "report" not in report


def test_a_night_that_moved_is_an_error_that_holds_nothing_up_and_its_report_is_there(
    lake: Settings, instance: dg.DagsterInstance
) -> None:
    register_model(lake, PIPELINE, seed=1, champion=False)
    name_challenger(lake, PIPELINE, 2)
    assert materialize(lake, instance, PIPELINE, NIGHTS[0], NIGHTS[2]).success
    calm = evaluations(instance, DRIFT)
    assert {night: found.passed for night, found in calm.items()} == {n.isoformat(): True for n in NIGHTS[:3]}
    assert materialize(lake, instance, PIPELINE, NIGHTS[3], NIGHTS[3]).success

    moved = evaluations(instance, DRIFT)[NIGHTS[3].isoformat()]
    assert not moved.passed
    assert moved.severity == dg.AssetCheckSeverity.ERROR
    assert "probability has moved far: PSI" in moved.description
    assert moved.metadata["nights_before_psi"].value > 0.25
    assert "nights before" in moved.metadata["distances"].value

    beside = evaluations(instance, CHALLENGER)[NIGHTS[3].isoformat()]
    assert beside.severity == dg.AssetCheckSeverity.WARN
    assert "demo@2 differs by" in beside.description
    assert "rows change their band" in beside.description
    shown = metadata(instance, PIPELINE.challenger_table)
    assert shown["dagster/row_count"] == 800
    assert "correlation" in shown["comparison"]

    report = metadata(instance, f"drift_report_{PIPELINE.name}")
    assert report["reference"] == f"as-of date {NIGHTS[2]}"
    assert Path(report["report"]).is_file()
    assert metadata(instance, f"published_{PIPELINE.name}")["skipped"] is False


def test_drift_that_is_declared_to_block_keeps_the_night_from_being_published(
    lake: Settings, instance: dg.DagsterInstance
) -> None:
    blocking = dataclasses.replace(PIPELINE, drift=Drift(blocking=True))
    assert materialize(lake, instance, blocking, NIGHTS[1], NIGHTS[2]).success
    published = metadata(instance, f"published_{PIPELINE.name}")
    assert not materialize(lake, instance, blocking, NIGHTS[3], NIGHTS[3]).success
    assert metadata(instance, f"published_{PIPELINE.name}") == published
