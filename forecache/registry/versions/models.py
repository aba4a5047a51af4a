"""Models in MLflow: the versions, which of them is the champion, and their artifacts with checksums."""

import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.errors import CheckError, NotFoundError
from forecache.pipeline import Pipeline
from forecache.registry.versions.database import prepare_database
from forecache.registry.versions.relocation import artifact_root
from forecache.registry.versions.scratch import scratch_folder
from forecache.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
CHECKSUMS_TAG = "checksums"
WAITING = "awaiting_approval"
REJECTED = "rejected"
ROLLED_BACK = "rolled_back"
_UNCHECKED = {"registered_model_meta"}  # MLflow rewrites it when a version is registered


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model.

    Attributes:
        name: The pipeline's name.
        run_id: The MLflow run that made it.
        uri: `models:/<name>/<version>`.
        aliases: "champion", "challenger", "previous".
        gate: "pending", "passed", "failed", "awaiting_approval", "rejected" or "rolled_back".
        metrics: Test metrics by name.
        tags: All tags of the version.
    """

    name: str
    version: int
    run_id: str
    uri: str
    aliases: tuple[str, ...]
    gate: str
    created_at: datetime
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(json.loads(self.tags.get("features", "[]")))

    @property
    def is_own(self) -> bool:
        """Whether Forecache registered it, so that its tags say where it comes from."""
        return "training_table" in self.tags and "training_version" in self.tags

    @property
    def training_table(self) -> tuple[str, int]:
        """Name and Delta version of the table it was trained on.

        Raises:
            CheckError: Forecache did not register it.
        """
        if not self.is_own:
            raise CheckError(
                f"Model {self.name!r} version {self.version} was not registered by Forecache: nothing says what it was "
                "trained on, and the gate cannot judge it.",
                remedy=f"`forecache train {self.name}` makes a version that it can; `scoring_udf` scores any model.",
            )
        return self.tags["training_table"], int(self.tags["training_version"])


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


def list_models(settings: Settings, pipeline: Pipeline) -> list[ModelVersion]:
    """All versions of the pipeline's model, newest first; empty where none is registered."""
    client = tracking(settings)
    found = client.search_model_versions(f"name='{pipeline.name}'", max_results=1000)
    aliases = _aliases(client, pipeline.name) if found else {}
    versions = [_model_version(version, aliases) for version in found]
    return sorted(versions, key=lambda version: -version.version)


def model_version(settings: Settings, pipeline: Pipeline, version: int) -> ModelVersion:
    """One version.

    Raises:
        NotFoundError: No such version; the message lists those there are.
    """
    known = list_models(settings, pipeline)
    for candidate in known:
        if candidate.version == version:
            return candidate
    listed = ", ".join(str(candidate.version) for candidate in known) or "none"
    raise NotFoundError(f"Model {pipeline.name!r} has no version {version}.", remedy=f"Its versions: {listed}.")


def champion(settings: Settings, pipeline: Pipeline) -> ModelVersion:
    """The version behind the alias `champion`.

    Raises:
        NotFoundError: No version has passed the gate yet.
    """
    for version in list_models(settings, pipeline):
        if CHAMPION in version.aliases:
            return version
    raise NotFoundError(
        f"Pipeline {pipeline.name!r} has no champion yet.",
        remedy=f"Run `forecache train {pipeline.name}`: a model that passes the gate becomes the champion.",
    )


def find_champion(settings: Settings, pipeline: Pipeline) -> ModelVersion | None:
    """The champion, None where there is none."""
    try:
        return champion(settings, pipeline)
    except NotFoundError:
        return None


def verified_folder(settings: Settings, version: ModelVersion) -> Path:
    """The version's model folder on this machine, downloaded if need be, after its checksums have been compared.

    Raises:
        CheckError: A file was changed, added or removed since the version was registered.
    """
    folder = download(settings, artifact_uri=version.uri)
    _refuse_changed(folder, version.name, version.version, version.tags)
    return folder


def download(settings: Settings, **artifact: str) -> Path:
    """An artifact on this machine: where MLflow keeps it, or a copy that is gone when this process ends.

    Args:
        artifact: `artifact_uri`, or `run_id` and `artifact_path`.
    """
    tracking(settings)
    import mlflow

    here = settings.mlflow_tracking_uri.startswith("sqlite:") and (
        "://" not in settings.mlflow_artifact_root or settings.mlflow_artifact_root.startswith("file:")
    )
    # Left to itself, MLflow leaves a folder in /tmp for each copy.
    target = None if here else tempfile.mkdtemp(dir=scratch_folder())
    return Path(mlflow.artifacts.download_artifacts(**artifact, dst_path=target))


def refuse_changed(folder: Path, uri: str) -> None:
    """Compare the checksums of a downloaded `models:/NAME/VERSION` or `models:/NAME@ALIAS` that Forecache registered.

    Raises:
        CheckError: A file was changed, added or removed since the version was registered.
    """
    import mlflow

    client = mlflow.MlflowClient()
    rest = uri.removeprefix("models:/")
    if "@" in rest:
        version = client.get_model_version_by_alias(*rest.rsplit("@", 1))
    elif rest.rpartition("/")[2].isdigit():
        version = client.get_model_version(*rest.rsplit("/", 1))
    else:
        return  # the id of a logged model, which is no registered version
    if CHECKSUMS_TAG in version.tags:
        _refuse_changed(folder, version.name, int(version.version), version.tags)


def _refuse_changed(folder: Path, name: str, version: int, tags: Mapping[str, str]) -> None:
    expected: dict[str, str] = json.loads(tags.get(CHECKSUMS_TAG, "{}"))
    actual = checksums(folder)
    wrong = sorted(file for file in expected | actual if actual.get(file) != expected.get(file))
    if wrong or not expected:
        raise CheckError(
            f"Model {name!r} version {version} is refused: {_mismatch(wrong, expected)}.",
            remedy=f"Restore the file, or go back with `forecache models rollback {name}` and train again.",
        )


def _mismatch(wrong: list[str], expected: Mapping[str, str]) -> str:
    if not expected:
        return "it has no checksums"
    if wrong[0] not in expected:
        return f"its file {wrong[0]!r} was added after it was registered"
    return f"its file {wrong[0]!r} does not match the checksum in the registry"


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model folder by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _UNCHECKED)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextmanager
def registry_lock(settings: Settings) -> Iterator[None]:
    """One decision about aliases at a time on this machine."""
    settings.home_path.mkdir(parents=True, exist_ok=True)
    with (settings.home_path / "registry.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _aliases(client: "MlflowClient", name: str) -> dict[int, list[str]]:
    aliases: dict[int, list[str]] = {}
    for alias, version in client.get_registered_model(name).aliases.items():
        aliases.setdefault(int(version), []).append(alias)
    return aliases


def _model_version(version: Any, aliases: Mapping[int, list[str]]) -> ModelVersion:
    number, tags = int(version.version), dict(version.tags)
    return ModelVersion(
        name=version.name,
        version=number,
        run_id=version.run_id or "",
        uri=f"models:/{version.name}/{number}",
        aliases=tuple(sorted(aliases.get(number, ()))),
        gate=tags.get("gate", "pending"),
        created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, timezone.utc),
        metrics=json.loads(tags.get("test_metrics", "{}")),
        tags=tags,
    )
