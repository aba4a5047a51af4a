"""The declaration refuses what cannot work, in one sentence, and projects are found by their files."""

import dataclasses
import inspect
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from forecache import pipeline as package
from forecache.errors import NotFoundError, SettingsError
from forecache.pipeline import Baseline, Column, Retraining, Segment, Source, load_pipeline, load_pipelines
from forecache.settings import Settings, load_settings


@pytest.fixture
def churn(settings: Settings):
    return load_pipeline(settings, "churn")


def test_the_package_exports_what_its_modules_declare() -> None:
    public = {name for name, value in vars(package).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert len(package.__all__) == len(set(package.__all__))
    assert public == set(package.__all__)


def test_project_pipelines_are_found_by_name(settings: Settings) -> None:
    assert list(load_pipelines(settings)) == ["churn", "spend"]


def test_unknown_pipeline_names_those_there_are(settings: Settings) -> None:
    with pytest.raises(NotFoundError, match=r"no pipeline 'chrun'\. Pipelines in dagster_project: churn, spend\."):
        load_pipeline(settings, "chrun")


def test_unknown_project_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FORECACHE_PROJECT"):
        load_pipelines(load_settings(home=tmp_path, project="no_such_project"))


def test_broken_module_is_named_and_a_second_pipeline_of_the_same_name_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "misnamed_project" / "pipelines"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "bad.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = load_settings(home=tmp_path, project="misnamed_project")
    with pytest.raises(SettingsError, match=r"misnamed_project\.pipelines\.bad cannot be imported.*no_such_module"):
        load_pipelines(settings)

    (package / "bad.py").write_text("from dagster_project.pipelines.churn import churn\n")
    (package / "worse.py").write_text(
        "import dataclasses\nfrom dagster_project.pipelines.churn import churn\n"
        "mine = dataclasses.replace(churn, description='mine')\n"
    )
    sys.modules.pop("misnamed_project.pipelines.bad", None)
    with pytest.raises(SettingsError, match=r"Two pipelines are named 'churn', the second in worse\.py"):
        load_pipelines(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Churn!"}, "pipeline name 'Churn!' is not usable"),
        ({"key": ("client",)}, r"key column 'client', which source 'purchases' does not declare"),
        ({"segments": (Segment("s", of="nothing", bounds=(0.5,), labels=("a", "b")),)}, "wrong segment 's'"),
        ({"segments": (Segment("s", of="churn_probability", bounds=(0.5,), labels=("a",)),)}, "one label more"),
    ],
)
def test_wrong_declaration_says_what_is_wrong(churn, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        dataclasses.replace(churn, **changes)


@pytest.mark.parametrize(
    "changes", [{"metric": "roc-auc"}, {"metric": "mae"}, {"floors": {"roc_auc": 0.7, "accuracy": 0.9}}]
)
def test_a_gate_is_refused_whose_metric_the_label_does_not_have(churn, changes: dict[str, Any]) -> None:
    gate = dataclasses.replace(churn.gate, **changes)
    with pytest.raises(SettingsError, match=r"binary label by '(roc-auc|mae|accuracy)' .* Those are roc_auc"):
        dataclasses.replace(churn, gate=gate)


def test_wrong_baseline_and_published_field_are_refused(churn) -> None:
    gate = dataclasses.replace(churn.gate, baseline=Baseline("age"))
    with pytest.raises(SettingsError, match="baseline feature 'age', which it does not compute"):
        dataclasses.replace(churn, gate=gate)
    publish = dataclasses.replace(churn.publish, fields=("score",))
    with pytest.raises(SettingsError, match="publishes the field 'score'"):
        dataclasses.replace(churn, publish=publish)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_feature_psi": 0.0}, r"retraining limit max_feature_psi is 0\.0\. Give more than 0, or None"),
        ({"max_metric_drop": float("nan")}, "retraining limit max_metric_drop is nan"),
        ({"max_feature_psi": None, "max_prediction_psi": None, "max_metric_drop": None}, "Retraining has no limit"),
        ({"min_nights": 0}, r"retraining setting min_nights is 0\. Give 1 or more"),
        ({"cool_down_days": -1}, "retraining setting cool_down_days is -1"),
    ],
)
def test_retraining_that_could_not_work_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Retraining(**values)  # type: ignore[arg-type]


def test_retraining_ignores_features_only(churn) -> None:
    with pytest.raises(SettingsError, match="ignores 'churned' in its retraining, which is not a feature"):
        dataclasses.replace(churn, retraining=Retraining(ignore=("churned",)))


def test_source_refuses_unknown_columns_repeats_and_a_pattern_without_a_day() -> None:
    columns = (Column("customer_id", "string"), Column("at", "timestamp"))
    start = date(2026, 1, 1)
    with pytest.raises(SettingsError, match="refers to the column 'time'"):
        Source("orders", columns=columns, event_time="time", start=start)
    with pytest.raises(SettingsError, match="column 'at' twice"):
        Source("orders", columns=(*columns, Column("at", "date")), event_time="at", start=start)
    with pytest.raises(SettingsError, match="without a `day` group"):
        Source("orders", columns=columns, event_time="at", start=start, file_pattern=r".*\.csv")


def test_wrong_setting_names_the_variable_the_value_and_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_READER_PORT", "eighty")
    with pytest.raises(SettingsError, match=r"FORECACHE_READER_PORT has the value 'eighty'.*forecache settings"):
        load_settings()
