"""Drift and realised performance measured on a real lake, and what the sensor asks Dagster for because of them."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import monitoring_sample as sample
import numpy as np
import pytest
import registry_sample
from monitored_project.pipelines.returns import monitored
from monitoring_sample import CALM, DRIFTED, ROWS

from forecache.base.errors import NotFoundError, SettingsError
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.kit.delta.tables import table_version
from forecache.lake.query import query
from forecache.models.registry.model_versions import champion
from forecache.operations.training_due import last_training
from forecache.plugins.drift.feature_drift import feature_drift
from forecache.plugins.drift.measurements import Measurement, measurements
from forecache.plugins.drift.monitor import labelled_predictions, monitor
from forecache.plugins.drift.orchestration import REASON_TAG, build_monitoring
from forecache.plugins.drift.retraining import retraining_decision
from jobs.definitions import build_definitions
from resources.instance import ensure_instance, runner_instance
from resources.settings_resource import SettingsResource

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow

HORIZON = timedelta(days=30)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = load_settings(home=tmp_path_factory.mktemp("monitoring") / "home")
    sample.make_lake(settings)
    return settings.home_path


@pytest.fixture
def lake(settings: Settings, prepared: Path) -> Settings:
    shutil.copytree(prepared, settings.home_path)
    return settings


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, prepared: Path, spark: "SparkSession") -> Path:
    home = tmp_path_factory.mktemp("measured") / "home"
    shutil.copytree(prepared, home)
    monitor(load_settings(home=home), monitored, [*CALM, *DRIFTED])
    return home


@pytest.fixture
def drifted(settings: Settings, measured: Path) -> Settings:
    """Settings of a lake whose nights have all been measured."""
    shutil.copytree(measured, settings.home_path)
    return settings


@pytest.fixture
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "forecache.kit.spark.session.spark_session", lambda _: pytest.fail("these nights need no Spark")
    )


def of(figures: list[Measurement], night: date, kind: str, reference: str = "") -> dict[str, Measurement]:
    return {f.name: f for f in figures if f.run_date == night and f.kind == kind and reference in f.reference}


def test_figures_tell_calm_nights_from_drifted_ones(drifted: Settings) -> None:
    figures = measurements(drifted, "returns")
    for night in CALM:
        assert all(f.effect < 0.1 for f in of(figures, night, "feature").values())
        assert of(figures, night, "prediction", "test split")["return_probability"].effect < 0.1
        assert abs(of(figures, night, "performance")["roc_auc"].effect) < 0.05
    for night in DRIFTED:
        features = of(figures, night, "feature")
        assert {name for name, f in features.items() if f.effect > 0.25} == {"amount", "gap"}
        assert features["gap"].value == pytest.approx(0.55, abs=0.05)
        assert features["gap"].reference_value == pytest.approx(0.1, abs=0.02)
        assert (features["amount"].rows, features["amount"].reference_rows) == (ROWS, 3000)
        auc = of(figures, night, "performance")["roc_auc"]
        assert auc.as_of == night - HORIZON
        assert auc.value == pytest.approx(0.5, abs=0.05)
        assert auc.reference_value == champion(drifted, monitored).metrics["roc_auc"]
        assert auc.effect == pytest.approx(auc.reference_value - auc.value)
        assert auc.effect_low is not None
        assert auc.effect_high is not None
        assert 0.1 < auc.effect_low < auc.effect < auc.effect_high


def test_the_estimate_follows_moved_inputs_and_is_blind_to_another_concept(drifted: Settings) -> None:
    """Labels of the drifted nights have nothing to do with the scores any more: no estimate can know that."""
    figures = measurements(drifted, "returns")
    for night in (*CALM, *DRIFTED):
        expected = of(figures, night, "estimate")
        assert set(expected) == {"roc_auc", "average_precision", "log_loss", "brier", "accuracy", "f1"}
        auc = expected["roc_auc"]
        assert (auc.as_of, auc.rows, auc.model_version) == (night, ROWS, 1)
        assert auc.effect_low is not None
        assert auc.effect_high is not None
        assert auc.effect_low < auc.effect < auc.effect_high
        assert auc.effect == pytest.approx(auc.reference_value - auc.value)
    for night in CALM:
        auc, realised = of(figures, night, "estimate")["roc_auc"], of(figures, night, "performance")["roc_auc"]
        assert abs(auc.value - realised.value) < 0.05
        assert abs(auc.effect) < 0.05
    for night in DRIFTED:
        auc, realised = of(figures, night, "estimate")["roc_auc"], of(figures, night, "performance")["roc_auc"]
        assert auc.value > realised.value + 0.1


def test_realised_performance_is_that_of_scikit_learn_on_the_joined_rows(lake: Settings, spark: "SparkSession") -> None:
    from sklearn.metrics import roc_auc_score

    result = monitor(lake, monitored, CALM[:1])
    rows = query(
        lake,
        f"""
        select return_probability as score, (v.user_id is not null)::int as label from predictions_returns p
        left join raw_visits v on v.user_id = p.user_id where as_of = date '{CALM[0] - HORIZON}'
        """,
    )
    expected = roc_auc_score(rows["label"].to_numpy(), rows["score"].to_numpy())
    assert of(measurements(lake, "returns"), CALM[0], "performance")["roc_auc"].value == pytest.approx(expected)
    assert result.details["notes"] == {CALM[0].isoformat(): []}
    ((label, score, _),) = labelled_predictions(lake, monitored, [CALM[0] - HORIZON]).values()
    assert len(label) == len(score) == ROWS
    assert np.all(np.diff(score) >= 0)


def test_labels_after_the_horizon_count_for_nothing(lake: Settings, spark: "SparkSession") -> None:
    import pyarrow as pa

    as_of = CALM[0] - HORIZON
    ((before, *_),) = labelled_predictions(lake, monitored, [as_of]).values()
    for day in (as_of, CALM[0] + timedelta(days=1)):
        late = pa.table({"user_id": [f"{as_of}-{i}" for i in range(ROWS)], "amount": [1.0] * ROWS})
        sample.append_visits(lake, late.append_column("day", pa.array([day] * ROWS, pa.date32())))
    ((after, *_),) = labelled_predictions(lake, monitored, [as_of]).values()
    assert np.array_equal(before, after)


def test_the_same_inputs_are_measured_once_and_another_champion_again(drifted: Settings, spark: "SparkSession") -> None:
    version = table_version(drifted, "monitoring")
    again = monitor(drifted, monitored, [*CALM, *DRIFTED])
    assert again.skipped
    assert again.rows == len(measurements(drifted, "returns"))
    assert table_version(drifted, "monitoring") == version

    better = sample.champion(drifted, (*registry_sample.GOOD[:4], 0.01))
    assert champion(drifted, monitored).version == better
    result = monitor(drifted, monitored, DRIFTED[:1])
    assert not result.skipped
    figures = measurements(drifted, "returns", first=DRIFTED[0], last=DRIFTED[0])
    assert {f.model_version for f in figures if f.kind == "feature"} == {1, 2}
    # Version 1 made the predictions, and answers for them.
    assert {f.model_version for f in figures if f.kind != "feature"} == {1}


def test_a_night_without_labels_or_predictions_says_so(lake: Settings, no_spark: None) -> None:
    result = monitor(lake, monitored, [CALM[0] - HORIZON])
    assert result.details["notes"] == {"2024-07-03": ["no performance: 2024-06-03 was not scored"]}
    assert {f.kind for f in measurements(lake, "returns")} == {"feature", "prediction", "estimate"}
    with pytest.raises(NotFoundError, match="'returns' has no predictions for the as-of date 2024-08-08"):
        monitor(lake, monitored, [date(2024, 8, 8)])


def test_spark_and_arrow_measure_the_same_feature_drift(lake: Settings, spark: "SparkSession") -> None:
    model = champion(lake, monitored)
    here = feature_drift(lake, monitored, model, DRIFTED[0])
    there = feature_drift(lake.model_copy(update={"engine": "spark"}), monitored, model, DRIFTED[0])
    assert here == there
    assert [f.name for f in here] == list(monitored.feature_names)


def test_the_training_split_is_counted_once(lake: Settings) -> None:
    model = champion(lake, monitored)
    first = feature_drift(lake, monitored, model, CALM[0])
    shutil.rmtree(Path(lake.lake_uri) / "training_set_returns")
    assert feature_drift(lake, monitored, model, CALM[0]) == first


def test_the_decision_follows_the_nights_the_last_training_and_the_cool_down(drifted: Settings) -> None:
    found = retraining_decision(drifted, monitored)
    assert found.retrain
    assert {cause.name for cause in found.causes} == {"amount", "gap", "roc_auc"}
    assert found.night == DRIFTED[-1]

    other = replace(monitored, gate=replace(monitored.gate, metric="brier"))  # not measured yet
    assert {cause.name for cause in retraining_decision(drifted, other).causes} == {"amount", "gap"}

    assert monitored.retraining is not None
    patient = replace(monitored, retraining=replace(monitored.retraining, cool_down_days=7))
    cooling = retraining_decision(drifted, patient)
    assert not cooling.retrain
    assert "Cooling down until" in cooling.reason
    assert retraining_decision(drifted, patient, now=datetime.now(timezone.utc) + timedelta(days=8)).retrain

    sample.trained(drifted, DRIFTED[-1])
    last = last_training(drifted, monitored)
    assert last is not None
    assert last.night == DRIFTED[-1]
    assert "0 as-of dates of champion 1 have been measured" in retraining_decision(drifted, monitored).reason
    with pytest.raises(SettingsError, match="does not say when to train again"):
        retraining_decision(drifted, replace(monitored, retraining=None))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def tick(settings: Settings, instance: dg.DagsterInstance) -> Any:
    repository = build_definitions(load_settings(home=settings.home_path, project="monitored_project"))
    sensor = repository.get_repository_def().get_sensor_def("returns_drifted")
    resource = SettingsResource(home=str(settings.home_path), project="monitored_project")
    return sensor(dg.build_sensor_context(instance=instance, resources={"settings": resource}))


def run_of(instance: dg.DagsterInstance, job: str, status: dg.DagsterRunStatus, **tags: str) -> str:
    @dg.job(name=job)
    def stand_in() -> None: ...

    return instance.create_run_for_job(stand_in, status=status, tags=tags).run_id


def test_the_sensor_asks_once_for_a_training_as_of_the_drifted_night(
    drifted: Settings, instance: dg.DagsterInstance
) -> None:
    request = tick(drifted, instance)
    assert request.run_config == {"ops": {"training_set_returns": {"config": {"as_of": "2024-08-07"}}}}
    assert "feature amount: PSI" in request.tags[REASON_TAG]
    assert tick(drifted, instance).run_key == request.run_key

    run_id = run_of(instance, "returns_training", dg.DagsterRunStatus.FAILURE, **{"dagster/run_key": request.run_key})
    skipped = tick(drifted, instance)
    assert skipped.skip_message.startswith(f"Run {run_id} was requested for this and is FAILURE. Execute it again")

    sample.trained(drifted, CALM[-1])
    assert tick(drifted, instance).run_key != request.run_key


def test_the_sensor_waits_for_a_training_that_has_not_ended(drifted: Settings, instance: dg.DagsterInstance) -> None:
    run_id = run_of(instance, "returns_full", dg.DagsterRunStatus.STARTED)
    assert tick(drifted, instance).skip_message.startswith(f"Run {run_id} of returns_full has not ended yet.")


def test_the_sensor_says_why_it_asks_for_nothing(lake: Settings, instance: dg.DagsterInstance) -> None:
    assert "0 as-of dates of champion 1 have been measured" in tick(lake, instance).skip_message


def test_the_job_takes_what_the_sensor_asks_for(drifted: Settings, instance: dg.DagsterInstance) -> None:
    request = tick(drifted, instance)
    definitions = build_definitions(load_settings(home=drifted.home_path, project="monitored_project"))
    dg.validate_run_config(definitions.resolve_job_def("returns_training"), request.run_config)


def test_the_asset_shows_the_figures_and_the_verdict_of_each_night(lake: Settings, spark: "SparkSession") -> None:
    resource = SettingsResource(home=str(lake.home_path), project="monitored_project")
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            [build_monitoring(monitored)],
            partition_key=DRIFTED[0].isoformat(),
            resources={"settings": resource},
            instance=instance,
        )
        (event,) = done.asset_materializations_for_node("monitoring_returns")
    assert event.metadata["largest_feature_psi"].value > 0.25
    assert event.metadata["realised_roc_auc"].value == pytest.approx(0.5, abs=0.05)
    assert event.metadata["psi_to_test_split"].value < 0.25
    assert "| feature | amount | training split |" in event.metadata["figures"].value
    assert "1 as-of date of champion 1 has been measured" in event.metadata["verdict"].value


def test_what_the_command_measures_is_a_materialization_of_the_asset(
    lake: Settings, spark: "SparkSession", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(lake.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "monitored_project")
    ensure_instance(load_settings())
    assert main(["monitor", "returns", "--date", CALM[0].isoformat()]) == 0
    with runner_instance(lake) as instance:
        (record,) = instance.fetch_materializations(dg.AssetKey("monitoring_returns"), limit=2).records
    assert record.partition_key == CALM[0].isoformat()
    assert record.asset_materialization.metadata["command"].value == "forecache monitor"
    assert record.asset_materialization.metadata["psi_to_test_split"].value < 0.25


def test_the_command_prints_the_figures_and_the_verdict(
    drifted: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(drifted.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "monitored_project")
    assert main(["monitor", "returns"]) == 0
    printed = capsys.readouterr().out
    assert "As-of date 2024-08-07" in printed
    assert "Train again: Champion 1: " in printed
    assert main(["monitor", "returns", "--date", "2024-08-02", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["retrain"] is True
    assert {figure["kind"] for figure in answer["figures"]} == {"feature", "prediction", "estimate", "performance"}
