"""MLflow's client: telemetry off, the database created once, and set as the database of this process."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from forecache.base.settings import Settings
from forecache.models.tracking.database import artifact_root, prepare_database, prepare_shared_database

if TYPE_CHECKING:
    from mlflow import MlflowClient

_VARIABLES = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",
    "session_token": "AWS_SESSION_TOKEN",
    "default_region": "AWS_DEFAULT_REGION",
    "region": "AWS_DEFAULT_REGION",
    "endpoint": "MLFLOW_S3_ENDPOINT_URL",
    "endpoint_url": "MLFLOW_S3_ENDPOINT_URL",
}
"""The variables that MLflow's and boto3's part of S3 reads, by the name of delta-rs's option without `aws_`."""


def connect_mlflow(settings: Settings) -> "MlflowClient":
    """Turn telemetry off, create the database once under a lock, and set it as MLflow's in this process.

    Artifacts in a bucket are accessed with the options of the project's object store.

    Raises:
        ModuleNotFoundError: Artifacts are to lie on S3, and boto3 is not installed.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    if settings.mlflow_uri or settings.mlflow_artifacts:
        prepare_object_store(settings)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = settings.mlflow_tracking_uri
    if uri.startswith("sqlite:///"):
        prepare_database(Path(uri.removeprefix("sqlite:///")), uri, artifact_root(settings))
    elif uri.startswith("postgresql"):
        prepare_shared_database(uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient(uri, uri)


def prepare_object_store(settings: Settings) -> None:
    """Give MLflow in this process access to artifacts in a bucket, also to one that a server names."""
    variables = object_store_variables(settings.storage_options)
    if "AWS_ACCESS_KEY_ID" in variables:
        os.environ.pop("AWS_SESSION_TOKEN", None)  # belongs to other keys
    os.environ.update(variables)
    if settings.mlflow_artifact_root.startswith("s3://"):
        import boto3  # noqa: F401  # fails now, not after the training, when MLflow writes the model


def object_store_variables(options: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that give MLflow access to a bucket, from object store options; secrets included."""
    given = {key.lower().removeprefix("aws_"): value for key, value in options.items()}
    variables = {variable: given[name] for name, variable in _VARIABLES.items() if given.get(name)}
    if given.get("virtual_hosted_style_request", "").lower() == "true":
        variables["MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE"] = "virtual"
    return variables
