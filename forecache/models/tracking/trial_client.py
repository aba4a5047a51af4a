"""MLflow's client of a trial, which never writes into a run's folder of the environment that the trial defers to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
from mlflow.tracking._tracking_service import utils

from forecache.base.settings import Settings
from forecache.models.tracking.own_runs import own_run_folder


class TrialClient(mlflow.MlflowClient):
    """Copies the artifacts of a run that was forked into the trial before something is added to them."""

    def __init__(self, settings: Settings, uri: str) -> None:
        super().__init__(uri, uri)
        self._settings = settings

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        with self._own_artifacts(run_id):
            super().log_artifact(run_id, local_path, artifact_path)

    def log_artifacts(self, run_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        with self._own_artifacts(run_id):
            super().log_artifacts(run_id, local_dir, artifact_path)

    @contextmanager
    def _own_artifacts(self, run_id: str) -> Iterator[None]:
        own_run_folder(self._settings, run_id)
        # MLflow keeps them by the id of the run, whichever database it is in.
        places: Any = utils._artifact_repos_cache
        places.pop(run_id, None)
        try:
            yield
        finally:
            places.pop(run_id, None)
