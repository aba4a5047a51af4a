"""The declaration refuses what cannot work, in one sentence, and projects are found by their files."""

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from forecache import declare as package
from forecache.base.errors import NotFoundError, SettingsError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Baseline, Column, Retraining, Segment, Source, load_pipeline, load_pipelines, loading
from forecache.declare.loading import read_project


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
    with pytest.raises(
        NotFoundError,
        match=r"no pipeline or real-time model 'chrun'\. Did you mean 'churn'\? Those in dagster_project: churn, spend",
    ):
        load_pipeline(settings, "chrun")


def test_unknown_project_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="FORECACHE_PROJECT"):
        load_pipelines(load_settings(home=tmp_path, project="no_such_project"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The `pipelines` folder of an own project; `mine` declares a pipeline of that name."""
    folder = tmp_path / "own_project" / "pipelines"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    declare(folder, "mine")
    monkeypatch.syspath_prepend(str(tmp_path))
    forget("own_project")
    yield folder
    forget("own_project")


def declare(folder: Path, name: str, *, module: str = "", change: str = "") -> None:
    (folder / f"{module or name}.py").write_text(
        "import dataclasses\nfrom dagster_project.pipelines.churn import churn as original\n"
        f"mine = dataclasses.replace(original, name={name!r}{change})\ndel original\n"
    )


def forget(package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:\n", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        (
            "from forecache.declare import Publish\nPublish(on_stale='refused')\n",
            "has on_stale='refused'. It is one of",
        ),
    ],
)
def test_a_broken_module_is_named_with_its_error_and_the_others_go_on(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, message: str
) -> None:
    (project / "bad.py").write_text(text)
    settings = load_settings(home=tmp_path, project="own_project")
    loading._warned.clear()
    assert list(load_pipelines(settings)) == ["mine"]
    assert load_pipeline(settings, "mine").name == "mine"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "own_project.pipelines.bad cannot be used: " in caplog.text
    assert message in caplog.text
    for name in ("bad", "other"):  # which may be declared in the broken module
        with pytest.raises(SettingsError, match="own_project.pipelines.bad cannot be used"):
            load_pipeline(settings, name)


def test_a_broken_module_runs_once_for_a_pipeline_that_is_asked_for(project: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (project / "bad.py").write_text(f"open({str(runs)!r}, 'a').write('x')\nraise ValueError\n")
    settings = load_settings(home=tmp_path, project="own_project")
    with pytest.raises(SettingsError, match="bad cannot be used"):
        load_pipeline(settings, "bad")
    assert runs.read_text() == "x"


def test_a_project_that_lacks_a_library_says_what_to_install(project: Path, tmp_path: Path) -> None:
    (project / "__init__.py").write_text("import no_such_library.part\n")
    with pytest.raises(SettingsError, match=r"No module named 'no_such_library'\. Install no_such_library\.$"):
        read_project(load_settings(home=tmp_path, project="own_project"))


def test_a_name_that_two_modules_give_takes_both_and_no_other(project: Path, tmp_path: Path) -> None:
    declare(project, "again", module="one")
    declare(project, "again", module="two", change=", description='another'")
    found = read_project(load_settings(home=tmp_path, project="own_project"))
    assert list(found.pipelines) == ["mine"]
    assert set(found.broken) == {"own_project.pipelines.one", "own_project.pipelines.two"}
    assert "Two pipelines are named 'again'" in str(found.broken["own_project.pipelines.one"])


def test_a_source_that_two_modules_declare_in_different_ways_is_refused(project: Path, tmp_path: Path) -> None:
    view = "dataclasses.replace(original.features, sources=(dataclasses.replace(original.all_sources[0], end=None),))"
    change = f", features={view}"
    declare(project, "other", change=change)
    found = read_project(load_settings(home=tmp_path, project="own_project"))
    assert not found.pipelines
    assert "Two sources are named 'purchases'" in str(found.broken["own_project.pipelines.other"])


def test_two_views_of_one_name_and_two_sources_of_one_name_in_a_pipeline_are_refused(
    project: Path, tmp_path: Path
) -> None:
    declare(project, "other", change=", features=dataclasses.replace(original.features, owner='me@example.com')")
    declare(project, "torn", change=", sources=(dataclasses.replace(original.all_sources[0], end=None),)")
    found = read_project(load_settings(home=tmp_path, project="own_project"))
    assert "Two feature views are named 'customer'" in str(found.broken["own_project.pipelines.other"])
    assert "Two different sources of pipeline 'torn'" in str(found.broken["own_project.pipelines.torn"])


def test_a_pipeline_that_is_imported_from_another_module_is_the_same(project: Path, tmp_path: Path) -> None:
    (project / "imported.py").write_text("from own_project.pipelines.mine import mine\n")
    found = read_project(load_settings(home=tmp_path, project="own_project"))
    assert (list(found.pipelines), found.broken) == (["mine"], {})


def test_the_project_is_found_in_the_current_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(project.parents[1]))])
    monkeypatch.chdir(project.parents[1])
    assert list(load_pipelines(load_settings(project="own_project"))) == ["mine"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Churn!"}, "pipeline name 'Churn!' is not usable"),
        ({"key": ("client",)}, r"another key than its features: it is client, and customer has customer_id\."),
        (
            {"segments": (Segment("s", of="nothing", bounds=(0.5,), labels=("a", "b")),)},
            "segment 's' of 'nothing'",
        ),
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


def test_a_gate_compares_with_its_baseline_by_metrics_that_the_baseline_has(churn) -> None:
    ranked = dataclasses.replace(churn.gate, not_worse_than_baseline=("average_precision",))
    assert dataclasses.replace(churn, gate=ranked).gate == ranked
    for name, message in (("mae", "binary label by 'mae'"), ("log_loss", "a feature is no probability")):
        gate = dataclasses.replace(churn.gate, not_worse_than_baseline=(name,))
        with pytest.raises(SettingsError, match=message):
            dataclasses.replace(churn, gate=gate)


def test_a_network_that_a_function_trains_is_not_trained_again(churn) -> None:
    again = dataclasses.replace(churn, training=dataclasses.replace(churn.training, refit=True))
    with pytest.raises(
        SettingsError, match=r"Pipeline 'churn' declares Training\(refit=True\), .* function of its own"
    ):
        dataclasses.replace(again, model=dataclasses.replace(churn.model, fit=print))


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
        ({"max_feature_psi": 0.0}, r"`Retraining` has max_feature_psi=0\.0\. Give more than 0\."),
        ({"max_metric_drop": float("nan")}, "`Retraining` has max_metric_drop=nan"),
        ({"max_feature_psi": None, "max_prediction_psi": None, "max_metric_drop": None}, "Retraining has no limit"),
        ({"min_nights": 0}, r"`Retraining` has min_nights=0\. Give 1 or more"),
        ({"cool_down_days": -1}, "`Retraining` has cool_down_days=-1"),
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
