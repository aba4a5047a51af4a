"""Models in MLflow: versions, the `champion` alias, checksums, and moving the alias by hand.

The alias is only moved here, and every move is a row of the promotion ledger first.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.errors import CheckError, ConflictError, NotFoundError
from forecache.pipeline import Pipeline
from forecache.registry.promotions import Promotion, promotions, record_promotion
from forecache.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
PREVIOUS = "previous"
CHECKSUMS_TAG = "checksums"
_UNCHECKED = {"registered_model_meta"}  # MLflow rewrites it when a version is registered


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model.

    Attributes:
        name: The pipeline's name.
        run_id: The MLflow run that made it.
        uri: `models:/<name>/<version>`.
        aliases: "champion", "previous".
        gate: "pending", "passed", "failed", "awaiting_approval" or "rolled_back".
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
    def training_table(self) -> tuple[str, int]:
        """Name and Delta version of the table it was trained on."""
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
        _create_database(Path(uri.removeprefix("sqlite:///")), uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient(uri, uri)


def _create_database(path: Path, uri: str) -> None:
    """Two processes that migrate a new SQLite database at once lose runs: one does it, and says so beside it."""
    ready = path.with_name(f"{path.name}.ready")
    if ready.exists() and path.exists():
        return
    import mlflow

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (ready.exists() and path.exists()):
            mlflow.MlflowClient(uri, uri).search_experiments(max_results=1)
            ready.touch()


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
        CheckError: A file was changed, or is missing, since the version was registered.
    """
    tracking(settings)
    import mlflow

    folder = Path(mlflow.artifacts.download_artifacts(version.uri))
    expected: dict[str, str] = json.loads(version.tags.get(CHECKSUMS_TAG, "{}"))
    actual = checksums(folder)
    wrong = sorted(name for name in expected if actual.get(name) != expected[name])
    if wrong or not expected:
        what = f"its file {wrong[0]!r} does not match the checksum in the registry" if wrong else "it has no checksums"
        raise CheckError(
            f"Model {version.name!r} version {version.version} is refused: {what}.",
            remedy=f"Restore the file, or go back with `forecache rollback {version.name}` and train again.",
        )
    return folder


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a model folder by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _UNCHECKED)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def promote(settings: Settings, pipeline: Pipeline, version: int, *, actor: str, reason: str = "") -> Promotion:
    """Make a version that passed the gate, or waits for approval, the champion, by a person's decision.

    Raises:
        NotFoundError: No such version.
        ConflictError: It is the champion already.
        CheckError: It did not pass the gate, or its artifact was changed.
    """
    with registry_lock(settings):
        chosen = model_version(settings, pipeline, version)
        if CHAMPION in chosen.aliases:
            raise ConflictError(f"Model {pipeline.name!r} version {version} is the champion already.")
        if chosen.gate not in ("passed", "awaiting_approval", "rolled_back"):
            why = chosen.tags.get("gate_reason", "it was never judged")
            raise CheckError(
                f"Model {pipeline.name!r} version {version} did not pass the gate: {why}.",
                remedy="Train a better one, or change the gate in the pipeline's declaration.",
            )
        verified_folder(settings, chosen)
        return move_champion(settings, pipeline, chosen, action="promote", actor=actor, reason=reason)


def rollback(
    settings: Settings, pipeline: Pipeline, *, actor: str, to: int | None = None, reason: str = ""
) -> Promotion:
    """Give the alias back to the champion before this one, or to a version that was champion once.

    The version that is left gets the tag `gate=rolled_back`, so that nothing but a person promotes it again.

    Raises:
        NotFoundError: There is no champion, or none before it.
        CheckError: The version to go back to was never champion, or its artifact was changed.
    """
    with registry_lock(settings):
        current = champion(settings, pipeline)
        past = _past_champions(settings, pipeline, current.version)
        if not past:
            raise NotFoundError(
                f"Model {pipeline.name!r} version {current.version} is its first champion.",
                remedy="There is nothing to go back to.",
            )
        target = past[0] if to is None else to
        if target not in past:
            listed = ", ".join(str(version) for version in past)
            raise CheckError(
                f"Model {pipeline.name!r} version {target} was never champion.", remedy=f"Past champions: {listed}."
            )
        chosen = model_version(settings, pipeline, target)
        verified_folder(settings, chosen)
        moved = move_champion(settings, pipeline, chosen, action="rollback", actor=actor, reason=reason)
        tracking(settings).set_model_version_tag(pipeline.name, str(current.version), "gate", "rolled_back")
        return moved


def move_champion(
    settings: Settings,
    pipeline: Pipeline,
    to: ModelVersion,
    *,
    action: str,
    actor: str,
    reason: str = "",
    verdict: str = "passed",
    run_id: str = "",
) -> Promotion:
    """Write the move to the ledger, then do it; a move that was cut short is done again by `finish_move`."""
    before = find_champion(settings, pipeline)
    table, table_version = to.training_table
    entry = Promotion(
        pipeline=pipeline.name,
        action=action,
        actor=actor,
        from_version=before.version if before else None,
        to_version=to.version,
        verdict=verdict,
        reason=reason,
        metrics=dict(to.metrics),
        training_table=table,
        training_version=table_version,
        run_id=run_id,
        recorded_at=datetime.now(timezone.utc),
    )
    record_promotion(settings, entry)
    finish_move(settings, pipeline, entry)
    return entry


def finish_move(settings: Settings, pipeline: Pipeline, entry: Promotion) -> None:
    """Point the aliases where the ledger's entry says; doing it twice changes nothing."""
    client = tracking(settings)
    if entry.from_version is not None and entry.from_version != entry.to_version:
        client.set_registered_model_alias(pipeline.name, PREVIOUS, str(entry.from_version))
    client.set_registered_model_alias(pipeline.name, CHAMPION, str(entry.to_version))


def diff_models(settings: Settings, pipeline: Pipeline, first: int, second: int) -> dict[str, tuple[Any, Any]]:
    """What differs between two versions: metrics, training data, code, features, parameters."""
    client = tracking(settings)
    sides = []
    for number in (first, second):
        version = model_version(settings, pipeline, number)
        parameters = client.get_run(version.run_id).data.params if version.run_id else {}
        tags = {name: value for name, value in version.tags.items() if name != CHECKSUMS_TAG}
        sides.append({**parameters, **tags, **version.metrics})
    names = sorted(set(sides[0]) | set(sides[1]))
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@contextmanager
def registry_lock(settings: Settings) -> Iterator[None]:
    """One decision about aliases at a time on this machine."""
    settings.home_path.mkdir(parents=True, exist_ok=True)
    with (settings.home_path / "registry.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _past_champions(settings: Settings, pipeline: Pipeline, current: int) -> list[int]:
    """Versions that were champion before, the latest first, without the current one and those rolled back from."""
    past: list[int] = []
    for entry in promotions(settings, pipeline.name):
        if entry.action == "rollback" and entry.from_version in past:
            past.remove(entry.from_version)
        if entry.verdict == "passed" and entry.to_version is not None:
            if entry.to_version in past:
                past.remove(entry.to_version)
            past.append(entry.to_version)
    return [version for version in reversed(past) if version != current]


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
