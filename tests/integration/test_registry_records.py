"""MLflow's records read without MLflow: on each kind of registry they are what its client answers."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.db.utils import _get_latest_schema_revision
from store_services import mlflow_server, postgres_server

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings, load_settings, trial_settings
from forecache.models.registry.model_versions import ModelVersion, read_version
from forecache.models.tracking import records
from forecache.models.tracking.artifacts import download_from_mlflow
from forecache.models.tracking.client import connect_mlflow
from forecache.models.tracking.records import find_versions
from forecache.plugins.trials.trial import fork

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "server"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a registry of each kind, with models that have changed in every way."""
    folder = tmp_path_factory.mktemp(request.param)
    home = folder / "home"
    if request.param == "sqlite":
        yield fill(load_settings(home=home), home)
    elif request.param == "postgresql":
        with postgres_server(folder / "postgres", password="s3cret") as url:
            yield fill(load_settings(home=home, mlflow_uri=url, mlflow_artifacts=f"file://{home}/artifacts"), home)
    else:
        with mlflow_server(folder / "server") as uri:
            yield fill(load_settings(home=home, mlflow_uri=uri, mlflow_artifacts="mlflow-artifacts:/forecache"), home)


def fill(settings: Settings, home: Path) -> Settings:
    client, is_server = connect_mlflow(settings), settings.mlflow_uri.startswith("http")
    client.create_registered_model("empty")
    client.create_registered_model("churn", description="It's a model.")
    for number in range(1, 6):
        folder = home / "models" / str(number)
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text("flavors: {}\n")
        run, place = None, str(folder)
        if number % 2 or is_server:  # which takes a model only from its run
            made = client.create_run("0").info
            run, place = made.run_id, f"{made.artifact_uri}/model" if is_server else place
        client.create_model_version("churn", place, run, tags={"gate": "passed", "test_metrics": '{"auc": 0.5}'})
    client.set_model_version_tag("churn", "2", "gate", 'it\'s "failed"\n')
    client.set_model_version_tag("churn", "4", "empty", "")
    client.delete_model_version("churn", "5")
    client.set_registered_model_alias("churn", "champion", "3")
    client.set_registered_model_alias("churn", "previous", "1")
    client.set_registered_model_alias("churn", "also", "3")
    client.create_registered_model("churn2")
    client.create_model_version("churn2", place, run, tags={"of": "another"})
    client.set_registered_model_alias("churn2", "champion", "1")
    return settings


def asked_of_client(settings: Settings, name: str) -> list[ModelVersion]:
    client = connect_mlflow(settings)
    found = client.search_model_versions(f"name='{name}'", max_results=1000)
    named = client.get_registered_model(name).aliases if found else {}
    return [
        read_version(each, [alias for alias in named if named[alias] == each.version], dict(each.tags))
        for each in found
    ]


@pytest.mark.parametrize("name", ["churn", "churn2", "empty", "missing"])
def test_versions_are_those_that_the_client_answers(registry: Settings, name: str) -> None:
    found = records.find_versions(registry, name)
    assert found is not None
    assert [read_version(each, each.aliases, each.tags) for each in found] == asked_of_client(registry, name)


def test_a_version_is_found_by_alias_and_by_number_and_one_that_is_gone_is_not(registry: Settings) -> None:
    client = connect_mlflow(registry)
    for found, asked in (
        (
            records.find_version(registry, "churn", alias="champion"),
            client.get_model_version_by_alias("churn", "champion"),
        ),
        (records.find_version(registry, "churn", number=4), client.get_model_version("churn", "4")),
    ):
        assert found is not None
        assert (found.version, found.tags, found.run_id) == (int(asked.version), dict(asked.tags), asked.run_id or None)
        assert sorted(found.aliases) == sorted(asked.aliases)
    assert records.find_version(registry, "churn", number=5) is None
    assert records.find_version(registry, "churn", alias="nobody") is None


def test_files_of_this_machine_are_where_the_client_finds_them(registry: Settings) -> None:
    connect_mlflow(registry)
    found = records.find_model_folder(registry, "churn", 3)
    if registry.mlflow_tracking_uri.startswith("http"):
        assert found is None
    else:
        assert found == download_from_mlflow(artifact_uri="models:/churn/3")
    assert records.find_model_folder(registry, "churn", 5) is None


def test_a_file_of_a_run_is_read_where_the_client_put_it(registry: Settings) -> None:
    client = connect_mlflow(registry)
    run = client.create_run(client.create_experiment("files", f"{registry.mlflow_artifact_root}/files")).info.run_id
    client.log_text(run, "{}", "evaluation.json")
    found = records.find_run_file(registry, run, "evaluation.json")
    if registry.mlflow_tracking_uri.startswith("http"):
        assert found is None
    else:
        assert found is not None
        assert found.read_text() == "{}"
    assert records.find_run_file(registry, run, "missing.json") is None


def test_parameters_of_a_run_are_those_that_the_client_answers(registry: Settings) -> None:
    client = connect_mlflow(registry)
    run = client.create_run("0").info.run_id
    assert records.find_run_parameters(registry, run) == {}
    for name, value in (("seed", "7"), ("note", 'it\'s "one"')):
        client.log_param(run, name, value)
    assert records.find_run_parameters(registry, run) == client.get_run(run).data.params
    assert records.find_run_parameters(registry, "0" * 32) is None


def _disown(settings: Settings, statement: str) -> Settings:
    with closing(sqlite3.connect(settings.mlflow_tracking_uri.removeprefix("sqlite:///"))) as database, database:
        database.execute(statement)
    return settings


@pytest.mark.parametrize(
    "disown",
    [
        lambda settings, _: _disown(settings, "update alembic_version set version_num = 'ffffffffffff'"),
        lambda settings, _: _disown(settings, "update registered_models set workspace = 'other' where name = 'empty'"),
        lambda settings, patch: patch.setenv("MLFLOW_TRACKING_TOKEN", "secret"),
        lambda settings, patch: patch.setenv("MLFLOW_WORKSPACE", "other"),
        lambda settings, _: (settings.home_path / "mlflow" / "mlflow.db.ready").write_text("/elsewhere"),
    ],
)
def test_the_client_is_asked_where_the_answer_is_not_sure_to_be_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disown: Callable[[Settings, pytest.MonkeyPatch], Any]
) -> None:
    settings = fill(load_settings(home=tmp_path / "home"), tmp_path / "home")
    assert records.find_versions(settings, "churn")
    disown(settings, monkeypatch)
    assert records.find_versions(settings, "churn") is None
    assert records.find_model_folder(settings, "churn", 1) is None


def test_a_server_or_database_that_does_not_answer_is_left_to_the_client(tmp_path: Path) -> None:
    for uri in ("http://127.0.0.1:9", "postgresql://nobody@127.0.0.1:9/none", "mysql://nobody@127.0.0.1/none"):
        settings = load_settings(home=tmp_path / "home", mlflow_uri=uri, mlflow_artifacts=str(tmp_path))
        assert records.find_versions(settings, "churn") is None


def test_the_statements_are_for_the_tables_of_the_installed_mlflow() -> None:
    assert _get_latest_schema_revision() in records.REVISIONS


def test_a_trial_has_the_versions_under_their_numbers_and_adds_to_its_own_copies(registry: Settings) -> None:
    if registry.mlflow_uri.startswith("http"):
        with pytest.raises(UnavailableError, match="on the MLflow server"):
            fork(registry, "forked")
        return
    run = next(each.run_id for each in find_versions(registry, "churn") or () if each.run_id)
    connect_mlflow(registry).log_text(run, "of the base", "note.txt")
    before = [find_versions(registry, name) for name in ("empty", "churn", "churn2")]
    made, trial = fork(registry, "forked"), trial_settings(registry, "forked")
    assert made.models == {"churn": 5, "churn2": 1}
    assert [find_versions(trial, name) for name in ("empty", "churn", "churn2")] == before
    client = connect_mlflow(trial)
    client.log_text(run, "of the trial", "note.txt")
    client.set_registered_model_alias("churn", "champion", "1")
    client.create_model_version("churn", "file:///nowhere", run)
    folder = client.get_run(run).info.artifact_uri
    assert folder.startswith(f"{trial.mlflow_artifact_root}/")
    assert Path(client.download_artifacts(run, "note.txt")).read_text() == "of the trial"
    assert max(each.version for each in find_versions(trial, "churn") or ()) == 6
    base = connect_mlflow(registry)
    assert Path(base.download_artifacts(run, "note.txt")).read_text() == "of the base"
    assert [find_versions(registry, name) for name in ("empty", "churn", "churn2")] == before
