"""The MLflow run of a training while it trains: losses, system metrics, interruptions, a server that is down."""

import time
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterExecutionInterruptedError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sample_project.pipelines.visits import returns

from forecache.base.errors import CheckError
from forecache.base.settings import Settings, load_settings
from forecache.models.tracking.client import connect_mlflow
from forecache.models.tracking.runs import RUN_FILE, open_training_run, public_tracking_uri


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", project="sample_project")


def epoch(number: int, **changed: Any) -> dict[str, Any]:
    losses = {"train_loss": 1.0 / (number + 1), "validation_loss": 1.1 / (number + 1)}
    return {"event": "epoch", "epoch": number, "step": 10 * (number + 1), **losses, "seconds": 1.0, **changed}


def series(client: MlflowClient, run: str, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run, name))


def test_losses_and_system_metrics_are_in_the_run_while_it_trains(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    client = connect_mlflow(settings)
    with open_training_run(settings, returns, tmp_path / "run", night="2024-08-01") as run:
        assert client.get_run(run.id).info.status == "RUNNING"
        assert run.on_event({"event": "progress", "step": 7, "step_loss": 0.5, "learning_rate": 0.01}) == ""
        run.on_event(epoch(0))
        assert series(client, run.id, "step_loss") == [(7, 0.5)]
        assert series(client, run.id, "validation_loss") == [(0, 1.1)]
        deadline = time.monotonic() + 60
        while "system/cpu_utilization_percentage" not in client.get_run(run.id).data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    found = client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert "system/system_memory_usage_megabytes" in found.data.metrics


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("http://me:secret@host:5000/mlflow?token=secret", "http://host:5000/mlflow"),
        ("postgresql://me:secret@db/mlflow", "postgresql://db/mlflow"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_a_password_in_the_tracking_uri_is_not_written_beside_the_training(uri: str, kept: str) -> None:
    assert public_tracking_uri(load_settings(mlflow_uri=uri)) == kept


def test_the_file_of_the_run_holds_no_password(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect_mlflow(settings)  # the database is the test's; the URI is what a server's would be
    monkeypatch.setattr("forecache.models.tracking.runs.connect_mlflow", lambda _: client)
    server = settings.model_copy(update={"mlflow_uri": "http://me:secret@host:5000"})
    folder = tmp_path / "run"
    first = interrupted_run(server, folder, KeyboardInterrupt())
    assert "secret" not in (folder / RUN_FILE).read_text()
    assert interrupted_run(server, folder, KeyboardInterrupt()) == first


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, DagsterExecutionInterruptedError])
def test_an_interrupted_training_goes_on_in_its_run_and_repeats_no_epoch(
    settings: Settings, tmp_path: Path, interruption: type[BaseException]
) -> None:
    client = connect_mlflow(settings)
    first = interrupted_run(settings, tmp_path / "run", interruption())
    assert client.get_run(first).info.status == "KILLED"
    with open_training_run(settings, returns, tmp_path / "run", night="2024-08-01") as second:
        second.on_event(epoch(0))
        second.on_event(epoch(2))
        second.finish([epoch(number) for number in range(3)])  # the event of epoch 1 was lost
    assert second.id == first
    assert [step for step, _ in series(client, first, "validation_loss")] == [0, 1, 2]
    assert client.get_run(first).info.status == "FINISHED"


def test_a_server_that_does_not_answer_is_told_and_gets_the_losses_later(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect_mlflow(settings)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise MlflowException("no connection")

    with open_training_run(settings, returns, tmp_path / "run", night="2024-08-01") as run:
        with monkeypatch.context() as patched:
            patched.setattr(MlflowClient, "log_batch", refuse)
            assert "3 wait" in run.on_event(epoch(0))
        assert run.on_event(epoch(1)) == ""
    assert [step for step, _ in series(client, run.id, "train_loss")] == [0, 1]


def test_a_run_that_fails_says_so(settings: Settings, tmp_path: Path) -> None:
    run = interrupted_run(settings, tmp_path / "run", ValueError("broken"))
    assert connect_mlflow(settings).get_run(run).info.status == "FAILED"


def interrupted_run(settings: Settings, folder: Path, error: BaseException) -> str:
    """The id of a run that ended with an error after its first epoch."""
    ids = []

    def train() -> None:
        with open_training_run(settings, returns, folder, night="2024-08-01") as run:
            ids.append(run.id)
            run.on_event(epoch(0))
            raise error

    with pytest.raises(type(error)):
        train()
    return ids[0]


def test_a_version_that_others_registered_is_shown_and_refused_in_a_sentence(
    settings: Settings, tmp_path: Path
) -> None:
    from forecache.models.registry.alias_moves import describe_move
    from forecache.models.registry.model_versions import model_version
    from forecache.models.registry.run_gate import run_gate

    client = connect_mlflow(settings)
    client.create_registered_model("returns")
    client.create_model_version("returns", source=tmp_path.as_uri())
    foreign = model_version(settings, returns, 1)
    shown = foreign.as_dict()
    assert (shown["training_table"], shown["training_delta_version"]) == (None, None)
    words = "Model 'returns' version 1 was not registered by Forecache"
    with pytest.raises(CheckError, match=words):
        run_gate(settings, returns, 1, actor="test")
    with pytest.raises(CheckError, match=words):
        describe_move(settings, returns, foreign, action="promote", actor="test")
