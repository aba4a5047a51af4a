"""Downloads of MLflow artifacts, and their comparison with the checksums of registration."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from forecache.base.errors import CheckError
from forecache.base.files import hold_folder, remove_abandoned_folders
from forecache.base.settings import Settings
from forecache.models.tracking.client import connect_mlflow

_PREFIX = "forecache-scratch-"
_holding: list[tuple["tempfile.TemporaryDirectory[str]", int]] = []
"""The object that removes the folder, and the descriptor that locks it, kept alive as long as this process."""


@cache
def scratch_folder() -> str:
    """This process's folder among the temporary files (TMPDIR); those of dead processes are removed."""
    remove_abandoned_folders(Path(tempfile.gettempdir()), _PREFIX)
    folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
    _holding.append((folder, hold_folder(folder.name)))
    return folder.name


CHECKSUMS_TAG = "checksums"
_UNCHECKED = {"registered_model_meta"}  # MLflow rewrites it when a version is registered


def download_artifact(settings: Settings, **artifact: str) -> Path:
    """The path of an artifact (`artifact_uri`, or `run_id` and `artifact_path`) on this machine: MLflow's own, or a
    copy that is removed when this process ends."""
    connect_mlflow(settings)
    return download_from_mlflow(copies=settings.base is not None, **artifact)


def download_from_mlflow(*, copies: bool = False, **artifact: str) -> Path:
    """Like `download_artifact`, from the MLflow server or database that is already set in this process.

    With `copies` always a copy: MLflow writes a file into the folder of a model that it returns.
    """
    import mlflow

    # Without a target, MLflow leaves a folder in TMPDIR for each copy; artifacts of a run are copied in any case.
    is_copied = copies or not _is_local_artifact(artifact.get("artifact_uri", ""))
    target = tempfile.mkdtemp(dir=scratch_folder()) if is_copied else None
    return Path(mlflow.artifacts.download_artifacts(**artifact, dst_path=target))


def _is_local_artifact(uri: str) -> bool:
    """Tell if MLflow returns the artifact's own path on this machine instead of a copy."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository

    if not uri.startswith("models:"):
        return uri.startswith("file:")
    repository: Any = ModelsArtifactRepository(ModelsArtifactRepository.split_models_uri(uri)[0])
    while isinstance(repository, ModelsArtifactRepository):
        repository = repository.repo
    return isinstance(repository, LocalArtifactRepository)


def refuse_changed_download(folder: Path, uri: str) -> None:
    """Compare the checksums of a downloaded `models:/NAME/VERSION` or `models:/NAME@ALIAS`; raises as
    `refuse_changed_files`."""
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
        refuse_changed_files(folder, version.name, int(version.version), version.tags)


def refuse_changed_files(folder: Path, name: str, version: int, tags: Mapping[str, str]) -> None:
    """CheckError if a model's folder differs from the checksums in the tags of its version."""
    expected: dict[str, str] = json.loads(tags.get(CHECKSUMS_TAG, "{}"))
    actual = file_checksums(folder)
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


def file_checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _UNCHECKED)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
