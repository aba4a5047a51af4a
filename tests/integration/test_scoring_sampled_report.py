"""The drift report: a bounded, repeatable sample on one page that loads and sends nothing."""

import dataclasses
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest
import registry_sample as sample
from sample_project.pipelines.visits import returns
from scoring_support import NIGHT, features_table, make_pipeline, register_model, write_features
from training_sample import sample_rows, write_training_set

from forecache.base.settings import Settings
from forecache.declare import Drift
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.plugins.drift.sampled_report import write_drift_report
from forecache.scoring.run import score

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow


def test_a_night_against_the_test_split_is_a_page_on_disk_and_in_the_models_run(
    spark: "SparkSession", settings: Settings
) -> None:
    pipeline = dataclasses.replace(returns, drift=Drift(report_rows=500, keep_reports=1))
    write_training_set(settings, pipeline)
    training = sample.made_up_training(settings, pipeline, sample.GOOD, training_version=2)
    version = register_trained_model(settings, pipeline, training).details["model_version"]
    assert run_gate(settings, pipeline, version, actor="test").passed
    nights = [NIGHT + timedelta(days=i) for i in range(2)]
    for i, night in enumerate(nights):
        rows = sample_rows(pipeline, 400, seed=i).drop_columns(["split", "as_of", pipeline.label.name])
        dated = rows.add_column(1, "as_of", features_table(rows.num_rows, num_features=1, night=night)["as_of"])
        write_features(settings, pipeline, [dated], night=night)
    score(settings, pipeline, nights, engine="arrow")

    first = write_drift_report(settings, pipeline, nights[0])
    assert first.details["reference"] == f"test split of model {version}"
    assert 450 < first.rows <= 500
    assert 450 < first.details["reference_rows"] <= 500
    assert first.details["columns"] == [*pipeline.feature_names, pipeline.main_output.name]
    page = Path(first.details["path"]).read_text()
    assert all(name in page for name in first.details["columns"])
    assert not re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["']?(?:https?:)?//""", page)
    downloaded = mlflow.artifacts.download_artifacts(first.details["mlflow_artifact"])
    assert Path(downloaded).read_text() == page

    again = write_drift_report(settings, pipeline, nights[0])
    assert again.skipped
    assert again.details == first.details
    Path(first.details["path"]).unlink()
    anew = write_drift_report(settings, pipeline, nights[0])
    assert (anew.skipped, anew.rows) == (False, first.rows)

    write_drift_report(settings, pipeline, nights[1])
    kept = sorted(path.name for path in Path(first.details["path"]).parent.iterdir())
    assert kept == [f"{nights[1]}.html"]
    of_an_old_night = write_drift_report(settings, pipeline, nights[0])
    assert Path(of_an_old_night.details["path"]).is_file()
    assert write_drift_report(settings, pipeline, nights[0]).skipped


def test_without_a_test_split_the_night_before_is_the_reference_and_the_first_night_has_none(
    spark: "SparkSession", settings: Settings
) -> None:
    pipeline = make_pipeline(num_features=4)
    register_model(settings, pipeline)
    nights = [NIGHT, NIGHT + timedelta(days=1)]
    for night in nights:
        write_features(settings, pipeline, [features_table(600, num_features=4, night=night)], night=night)
    score(settings, pipeline, nights, engine="arrow")
    first = write_drift_report(settings, pipeline, nights[0])
    assert (first.rows, first.details["reference"], first.details["path"]) == (0, None, None)
    assert write_drift_report(settings, pipeline, nights[0]).skipped
    second = write_drift_report(settings, pipeline, nights[1])
    assert second.details["reference"] == f"as-of date {nights[0]}"
    assert second.rows == second.details["reference_rows"] == 600
    assert Path(second.details["path"]).is_file()
    assert second.details["mlflow_artifact"] is None
