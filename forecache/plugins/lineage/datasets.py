"""Datasets, named by OpenLineage's naming conventions (https://openlineage.io/docs/spec/naming)."""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from forecache.base.settings import Settings


@dataclass(frozen=True)
class Dataset:
    """A version of a dataset."""

    namespace: str  # by OpenLineage's naming conventions
    name: str
    version: str = ""  # "" if unknown
    rows: int | None = None  # None if unknown
    # further facets, without `_producer` and `_schemaURL`
    facets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_SAME_AS = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "abfss"}


def namespace_and_name(uri: str) -> tuple[str, str]:
    """Namespace and name of a dataset in a folder or an object store, by its URI."""
    if "://" not in uri:
        return "file", str(Path(uri).expanduser().absolute())
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return "file", parts.path
    scheme = _SAME_AS.get(parts.scheme, parts.scheme)
    return f"{scheme}://{parts.netloc}", parts.path.strip("/") or "/"


def table(settings: Settings, name: str, version: int | None, *, rows: int | None = None, **facets: Any) -> Dataset:
    """A Delta table of the lake at a version, with its schema if the log still has it."""
    namespace, path = namespace_and_name(settings.table_uri(name))
    found: dict[str, Any] = {
        "datasetType": {"datasetType": "TABLE"},
        "storage": {"storageLayer": "delta", "fileFormat": "parquet"},
        "symlinks": {
            "identifiers": [
                {"namespace": settings.openlineage_namespace or settings.project, "name": name, "type": "TABLE"}
            ]
        },
    }
    if version is not None and version >= 0:
        fields = _schema(settings.table_uri(name), version, tuple(sorted(settings.storage_options.items())))
        found |= {"schema": {"fields": [{"name": column, "type": kind} for column, kind in fields]}} if fields else {}
    version_text = "" if version is None or version < 0 else str(version)
    return Dataset(namespace, path, version_text, rows, {**found, **facets})


@lru_cache(maxsize=256)
def _schema(uri: str, version: int, options: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        fields = DeltaTable(uri, version=version, storage_options=dict(options)).schema().fields
    except (DeltaError, OSError):
        return ()
    return tuple((field.name, str(getattr(field.type, "type", field.type))) for field in fields)


def existing_table(uri: str, version: Any) -> Dataset:
    """An existing table outside the lake that a source reads in place."""
    namespace, path = namespace_and_name(uri)
    text = "" if version is None else str(version)
    return Dataset(namespace, path, text, None, {"datasetType": {"datasetType": "TABLE"}})


def topic(settings: Settings, name: str, **facets: Any) -> Dataset:
    """A Kafka topic; its namespace is the first of the brokers."""
    broker = settings.kafka_brokers.split(",")[0].strip()
    return Dataset(f"kafka://{broker}", name, facets={"datasetType": {"datasetType": "TOPIC"}, **facets})


def live_layer(settings: Settings, name: str, **facets: Any) -> Dataset:
    """The streamed rows above the versions of a precompute store."""
    namespace, path = namespace_and_name(str(settings.store_path / name / "live"))
    return Dataset(namespace, path, facets={"storage": {"storageLayer": "forecache"}, **facets})


def landing_folder(settings: Settings, source: str) -> Dataset:
    """The landing files of a source."""
    namespace, path = namespace_and_name(f"{settings.landing_uri}/{source}")
    return Dataset(namespace, path, facets={"datasetType": {"datasetType": "FILE"}})


def store(settings: Settings, name: str, version: int, *, rows: int | None = None, **facets: Any) -> Dataset:
    """A pipeline's precompute store at a published version."""
    namespace, path = namespace_and_name(str(settings.store_path / name))
    return Dataset(namespace, path, str(version), rows, {"storage": {"storageLayer": "forecache"}, **facets})


def model(settings: Settings, name: str, version: Any) -> Dataset:
    """A registered model of MLflow."""
    return Dataset(_mlflow(settings), f"models/{name}", str(version), None, {"datasetType": {"datasetType": "MODEL"}})


def training_run(settings: Settings, run_id: str) -> Dataset:
    """A run of MLflow, which has the trained weights."""
    return Dataset(_mlflow(settings), f"runs/{run_id}", "", None, {"datasetType": {"datasetType": "MODEL"}})


def release(settings: Settings, name: str, number: int) -> Dataset:
    """A release of a real-time model."""
    namespace, path = namespace_and_name(str(settings.store_path / ".realtime" / name))
    return Dataset(namespace, path, str(number), None, {"datasetType": {"datasetType": "MODEL"}})


def _mlflow(settings: Settings) -> str:
    """Namespace of MLflow's models and runs: its server, or the file of its database."""
    parts = urlsplit(settings.mlflow_tracking_uri)
    place_of = parts.netloc.rpartition("@")[2]
    if parts.scheme in ("http", "https"):
        return f"mlflow://{place_of}"
    return f"mlflow:{posixpath.join('/', place_of, parts.path.lstrip('/'))}"
