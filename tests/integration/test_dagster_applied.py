"""Pipelines that train nothing, through the orchestrator and the command line: what runs, and what says why not."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from applied_sample import register
from deltalake import write_deltalake

from forecache.base.errors import CheckError
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.lake.query import query
from jobs.definitions import build_definitions
from jobs.runner import run
from resources.instance import runner_instance

SUPPORT = Path(__file__).parent.parent / "support"
NIGHTS = (date(2026, 1, 3), date(2026, 1, 4))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Settings:
    """Six landed days of two customers; uses the shared Spark session."""
    home = tmp_path_factory.mktemp("applied") / "home"
    settings = load_settings(home=home, project="rules_project", spark_master="local[2]")
    folder = Path(settings.landing_uri) / "sales"
    folder.mkdir(parents=True)
    for day in range(1, 7):
        at = f"2026-01-0{day}"
        (folder / f"{at}.csv").write_text(f"customer,day,amount\nann,{at},10\nbob,{at},20\n")
    label = {"spent": [10.0, 20.0, 40.0], "times": [1.0, 1.0, 2.0], "next_day": [10.0, 20.0, 20.0]}
    write_deltalake(settings.table_uri("labelled_spend"), pa.table(label))
    return settings


@pytest.fixture(autouse=True)
def here(shop: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    monkeypatch.setenv("FORECACHE_HOME", str(shop.home_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "rules_project")


def spend_model(folder: Path, factor: float) -> Path:
    """A linear model that takes the columns in another order: so much of what was spent at all."""
    import mlflow.sklearn
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    frame = pd.DataFrame({"times": [1.0, 2.0, 3.0, 5.0], "spent": [1.0, 4.0, 9.0, 2.0]})
    estimator = LinearRegression(fit_intercept=False).fit(frame, factor * frame["spent"])
    mlflow.sklearn.save_model(
        estimator,
        str(folder),
        signature=mlflow.models.infer_signature(frame, np.zeros(4)),
        serialization_format="skops",
        pip_requirements=["scikit-learn"],
    )
    return folder


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that is refused says, in one paragraph without a traceback."""
    capsys.readouterr()
    assert main([*arguments]) != 0
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return " ".join(text.split())


def test_there_are_no_assets_jobs_or_schedules_of_a_training(shop: Settings) -> None:
    repository = build_definitions(shop).get_repository_def()
    repository.load_all_definitions()
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert {key for key in keys if "foreign" in key and not key.startswith("features")} == {
        "model_foreign",
        "predictions_foreign",
        "published_foreign",
    }
    assert {key for key in keys if "ruled" in key and not key.startswith("features")} == {
        "predictions_ruled",
        "published_ruled",
    }
    assert {key for key in keys if "unpublished" in key and not key.startswith("features")} == {
        "predictions_unpublished"
    }
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    of_all = ("verify", "maintain", "cost", "backfill")
    assert {job for job in jobs if job.partition("_")[0] not in of_all and not job.endswith("_ingest")} == {
        "foreign_nightly",
        "ruled_nightly",
        "unpublished_nightly",
    }
    nightly = repository.get_job("unpublished_nightly").asset_layer.executable_asset_keys
    assert dg.AssetKey("predictions_unpublished") in nightly
    assert not any(key.to_user_string().startswith("published") for key in nightly)


def test_a_function_is_scored_published_explained_and_gone_back_from(
    shop: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shop, pipelines=["ruled"], nights=(NIGHTS[0], NIGHTS[0]))
    assert answer(capsys, "get", "ruled", "bob")["value"] == {"at_a_time": 20.0, "size": "large"}
    run(shop, pipelines=["ruled"], nights=NIGHTS, job="full")
    assert [result.skipped for result in run(shop, pipelines=["ruled"], nights=NIGHTS) if result.stage == "score"] == [
        True
    ]
    chain = answer(capsys, "explain", "ruled", "ann")
    assert chain["model"]["name"] == "ruled"
    assert chain["model"]["version"] == 1
    assert chain["model"]["uri"].startswith("function rules_project.pipelines.sales:a_day")
    assert chain["features"]["row"]["spent"] == 40.0
    assert main(["explain", "ruled", "ann"]) == 0
    assert "function rules_project.pipelines.sales:a_day" in capsys.readouterr().out
    [model] = answer(capsys, "models", "ruled")
    assert (model["version"], model["gate"], model["training_table"]) == (1, "none", None)
    drifted = answer(capsys, "drift", "ruled")
    assert list(drifted["distances"]) == ["nights before"]
    assert answer(capsys, "rollback", "ruled")["as_of"] == str(NIGHTS[0])
    assert answer(capsys, "get", "ruled", "bob")["as_of"] == str(NIGHTS[0])


def test_what_is_not_published_ends_with_its_predictions(shop: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [result.stage for result in run(shop, pipelines=["unpublished"], nights=NIGHTS)]
    assert "score" in stages
    assert "publish" not in stages
    rows = query(
        shop, "select customer, at_a_time from predictions_unpublished where as_of = '2026-01-04' order by all"
    )
    assert rows.to_pylist() == [{"customer": "ann", "at_a_time": 10.0}, {"customer": "bob", "at_a_time": 20.0}]
    for command in (
        ("publish", "unpublished"),
        ("get", "unpublished", "ann"),
        ("explain", "unpublished", "ann"),
        ("store", "versions", "unpublished"),
        ("store", "pin", "unpublished", "1"),
        ("store", "unpin", "unpublished"),
        ("rollback", "unpublished"),
        ("store", "diff", "unpublished", "1", "2"),
        ("store", "push", "unpublished", "--remote", f"{shop.home_path}/remote"),
    ):
        assert "Pipeline 'unpublished' is not published" in said(capsys, *command), command


@pytest.mark.parametrize(
    "command",
    [
        ("train", "ruled"),
        ("run", "ruled", "--job", "training"),
        ("tune", "ruled"),
        ("promote", "ruled", "1"),
        ("models", "evaluate", "ruled", "1"),
        ("models", "reject", "ruled", "1", "--reason", "x"),
        ("models", "diff", "ruled", "1", "2"),
        ("models", "rollback", "ruled"),
        ("challenge", "ruled", "1"),
        ("shadow", "ruled"),
        ("monitor", "ruled"),
    ],
)
def test_commands_of_a_training_say_that_there_is_none(command: tuple[str, ...], capsys: Any) -> None:
    assert "is a `FunctionModel`, which is not trained here" in said(capsys, *command)


def test_a_registered_model_is_applied_and_a_worse_version_is_not(
    shop: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(shop, spend_model(tmp_path / "bad", 5.0), name="spend_model")
    with pytest.raises(CheckError, match="does not reach its floors, and no version did before: mae"):
        run(shop, pipelines=["foreign"], nights=(NIGHTS[0], NIGHTS[0]))
    register(shop, spend_model(tmp_path / "good", 0.8), name="spend_model")
    run(shop, pipelines=["foreign"], nights=(NIGHTS[0], NIGHTS[0]))
    register(shop, tmp_path / "bad", name="spend_model")
    run(shop, pipelines=["foreign"], nights=NIGHTS)
    got = answer(capsys, "get", "foreign", "ann")
    assert got["model"] == {"name": "spend_model", "version": 2}
    assert got["value"]["next_spend"] == pytest.approx(0.8 * 40)
    chain = answer(capsys, "explain", "foreign", "ann")
    assert (chain["model"]["uri"], chain["model"]["gate"]) == ("models:/spend_model/2", "passed")
    listed = answer(capsys, "models", "foreign")
    assert [(model["version"], model["gate"], model["aliases"]) for model in listed] == [
        (3, "failed", ["production"]),
        (2, "passed", []),
        (1, "failed", []),
    ]
    with runner_instance(shop) as instance:
        key = dg.AssetCheckKey(dg.AssetKey("predictions_foreign"), "reaches_floors")
        [newest] = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        evaluation = newest.event.dagster_event.asset_check_evaluation_data
    assert not evaluation.passed
    assert "Version 2 stays: version 3 misses its floors: mae" in evaluation.description
    capsys.readouterr()
    main(["doctor", "--json"])
    found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert found["models"]["found"] == "foreign: models:/spend_model@production is version 3"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("FORECACHE_MLFLOW_URI", "http://127.0.0.1:9")
    main(["doctor", "--json"])
    found = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert "MLflow cannot be asked for models:/spend_model@production" in found["models"]["found"]
    assert "MLflow cannot be asked" in answer(capsys, "explain", "foreign", "ann")["model"]["missing"]
    assert "MLflow cannot be asked" in said(capsys, "models", "foreign")
