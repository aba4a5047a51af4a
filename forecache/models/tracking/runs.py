"""The MLflow run of a training in progress: its losses as they come, and metrics of the machine.

The run is opened before the first step; registration adds the model to the same run. Its id lies in the training's
folder, so that an interrupted training continues in the same run.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.base.code_version import code_version
from forecache.base.files import write_durably
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.kit.lease import LeaseLostError
from forecache.models.tracking.client import connect_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

RUN_FILE = "mlflow_run.json"
_STEP_METRICS = ("step_loss", "learning_rate", "gradient_norm")
_EPOCH_METRICS = ("train_loss", "validation_loss", "rows_per_s", "seconds")
_LARGEST_BATCH = 1000
_SAMPLING_S = 5.0


def experiment_of(settings: Settings, client: "MlflowClient", pipeline: Trainable) -> str:
    """Id of the pipeline's MLflow experiment, which is created if it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(pipeline.name)
    if found is not None:
        return str(found.experiment_id)
    location = f"{settings.mlflow_artifact_root}/{pipeline.name}"
    try:
        return str(client.create_experiment(pipeline.name, artifact_location=location))
    except MlflowException as error:
        # Another training may have been faster.
        found = client.get_experiment_by_name(pipeline.name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
        if found is None:
            raise
        return str(found.experiment_id)


@contextmanager
def open_training_run(
    settings: Settings, pipeline: Trainable, folder: Path, *, night: str, run_id: str = ""
) -> Iterator["TrainingRun"]:
    """Open the MLflow run of the training in `folder` for the block; a new one, or that of the interrupted training.

    MLflow's system metrics (processor, memory, disk, network, GPU) are sampled every five seconds. The run ends as
    FINISHED, as KILLED if the training was interrupted, or as FAILED; it does not end if another process has taken the
    training over, which goes on in it.
    """
    client = connect_mlflow(settings)
    run = _find_known_run(settings, folder)
    if run is None:
        tags = {
            "mlflow.runName": f"{pipeline.name} {night}",
            "forecache.pipeline": pipeline.name,
            "forecache.night": night,
            "forecache.run_id": run_id,
            "forecache.code_version": code_version(settings),
            "forecache.fingerprint": pipeline.fingerprint,
            **({"forecache.environment": settings.environment} if settings.environment else {}),
        }
        run = client.create_run(experiment_of(settings, client, pipeline), tags=tags).info.run_id
        folder.mkdir(parents=True, exist_ok=True)
        note = json.dumps({"run_id": run, "tracking_uri": public_tracking_uri(settings)})
        write_durably(folder / RUN_FILE, note)  # half a file would make each later training of the run fail
    client.update_run(run, status="RUNNING")
    status: str | None
    try:
        with _record_system_metrics(run):
            yield TrainingRun(client, run)
        status = "FINISHED"
    except LeaseLostError:
        status = None
        raise
    except BaseException as error:  # Ctrl-C is no Exception, nor is Dagster's interruption
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        if status is not None:
            client.set_terminated(run, status=status)


class TrainingRun:
    """Logs the events of a training to the MLflow run `id`.

    A server that does not answer does not stop the training: metrics wait for the next event, and only the end of the
    training fails if they cannot be logged.
    """

    def __init__(self, client: "MlflowClient", run: str) -> None:
        self.id, self._client = run, client
        known = client.get_metric_history(run, "validation_loss")
        self._epochs = {int(metric.step) for metric in known}
        self._waiting: list[Metric] = []

    def on_event(self, event: Mapping[str, Any]) -> str:
        """Log a worker's event: the losses of an epoch at its number, those of the last second at the step. Returns the
        reason why it could not be logged; empty if it was."""
        from mlflow.exceptions import MlflowException

        if event["event"] == "epoch":
            self._add_history([event])
        elif event["event"] == "progress":
            self._add({name: event[name] for name in _STEP_METRICS if name in event}, event["step"])
            self._add_history([event["round"]] if "round" in event else [])
        try:
            self._flush()
        except MlflowException as error:
            return f"MLflow does not take the losses ({len(self._waiting)} wait): {error}"
        return ""

    def finish(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Log the waiting metrics, and the epochs (or rounds) without an event."""
        self._add_history(history)
        self._flush()

    def _add_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        for record in history:
            if record["epoch"] not in self._epochs:
                self._epochs.add(int(record["epoch"]))
                self._add({name: record[name] for name in _EPOCH_METRICS if name in record}, int(record["epoch"]))

    def _add(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, step) for name, value in values.items()]

    def _flush(self) -> None:
        while self._waiting:
            self._client.log_batch(self.id, metrics=self._waiting[:_LARGEST_BATCH])
            del self._waiting[:_LARGEST_BATCH]


def read_run_id(folder: Path) -> str:
    """Id of the MLflow run that the training in `folder` began in."""
    return str(json.loads((folder / RUN_FILE).read_text())["run_id"])


def _find_known_run(settings: Settings, folder: Path) -> str | None:
    """The run that this training began in; None if there is none on this server."""
    if not (folder / RUN_FILE).is_file():
        return None
    known = json.loads((folder / RUN_FILE).read_text())
    return str(known["run_id"]) if known["tracking_uri"] == public_tracking_uri(settings) else None


def public_tracking_uri(settings: Settings) -> str:
    """The tracking URI without user, password and query, for files; "home" for the home's own database."""
    if not settings.mlflow_uri:
        return "home"
    scheme, separator, rest = settings.mlflow_uri.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


@contextmanager
def _record_system_metrics(run: str) -> Iterator[None]:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run, sampling_interval=_SAMPLING_S, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
