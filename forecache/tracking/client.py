"""MLflow's client, ready to use: telemetry off, the SQLite database created once, this process pointed at it."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.settings import Settings
from forecache.tracking.database import prepare_database
from forecache.tracking.relocation import artifact_root

if TYPE_CHECKING:
    from mlflow import MlflowClient


def tracking(settings: Settings) -> "MlflowClient":
    """MLflow ready to use: telemetry off, the SQLite database created once under a lock, this process pointed at it."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = settings.mlflow_tracking_uri
    if uri.startswith("sqlite:///"):
        prepare_database(Path(uri.removeprefix("sqlite:///")), uri, artifact_root(settings))
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient(uri, uri)
