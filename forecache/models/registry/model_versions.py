"""Models in MLflow: their versions, the champion among them, and their artifacts, which are verified by checksums."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.base.display import facts_html, value_text
from forecache.base.errors import CheckError, NotFoundError
from forecache.base.settings import Settings
from forecache.base.steps import look_once
from forecache.declare import Trainable
from forecache.kit.installation import hold_exclusively
from forecache.kit.lease import Lease
from forecache.models.tracking.artifacts import CHECKSUMS_TAG, download_artifact, refuse_changed_files
from forecache.models.tracking.client import connect_mlflow
from forecache.models.tracking.records import find_model_folder, find_run_parameters, find_versions

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
WAITING = "awaiting_approval"
REJECTED = "rejected"
ROLLED_BACK = "rolled_back"
FEATURES_TAG = "features_fingerprint"
"""Tag of a version: fingerprint of its features' declaration and code, without the rows of the sources."""
JUDGED_TAG, JUDGED_CHECKSUMS_TAG = "judged_model", "judged_checksums"
"""Tags of a version that was fitted again on all labelled dates: URI and checksums of the model before, which the gate
judges, as the served one has seen the test split."""


@dataclass(frozen=True)
class ModelVersion:
    name: str  # the pipeline's name
    version: int
    run_id: str  # the MLflow run that made it
    uri: str  # `models:/<name>/<version>`
    aliases: tuple[str, ...]  # "champion", "challenger", "previous"
    gate: str  # "pending", "passed", "failed", "awaiting_approval", "rejected" or "rolled_back"
    created_at: datetime
    metrics: Mapping[str, float] = field(default_factory=dict)  # test metrics by name
    tags: Mapping[str, str] = field(default_factory=dict)  # all tags of the version

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(json.loads(self.tags.get("features", "[]")))

    @property
    def weights(self) -> str | None:
        """Digest of the weights, None if Forecache did not register the version."""
        return self.tags.get("inputs", "").rpartition(" weights=")[2] or None

    @property
    def is_own(self) -> bool:
        """Tell if Forecache registered the version, so that its tags name its training data."""
        return "training_table" in self.tags and "training_version" in self.tags

    @property
    def training_table(self) -> tuple[str, int]:
        """Name and Delta version of the table it was trained on; CheckError if Forecache did not register the
        version."""
        if not self.is_own:
            raise CheckError(
                f"Model {self.name!r} version {self.version} was not registered by Forecache: its training data is "
                "unknown, and the gate cannot judge it.",
                remedy=f"`forecache train {self.name}` makes a version that it can; `scoring_udf` scores any model.",
            )
        return self.tags["training_table"], int(self.tags["training_version"])

    def _repr_html_(self) -> str:
        made_on = "{} at version {}".format(*self.training_table) if self.is_own else ""
        facts = {
            "aliases": ", ".join(self.aliases),
            "gate": f"{self.gate}: {self.tags.get('gate_reason', '')}".rstrip(": "),
            "metrics": [f"{name} {value_text(value)}" for name, value in self.metrics.items()],
            "features": ", ".join(self.features),
            "trained on": made_on,
            "MLflow run": self.run_id,
            "uri": self.uri,
            "made at": f"{self.created_at:%Y-%m-%d %H:%M} UTC",
        }
        return facts_html(f"Model {self.name} {self.version}", facts)

    def as_dict(self) -> dict[str, Any]:
        """The version with the stable keys of `--json`; some are null if Forecache did not register the version."""
        table, delta_version = self.training_table if self.is_own else (None, None)
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "gate": self.gate,
            "gate_reason": self.tags.get("gate_reason", ""),
            "metrics": dict(self.metrics),
            "run_id": self.run_id,
            "uri": self.uri,
            "created_at": self.created_at,
            "training_table": table,
            "training_delta_version": delta_version,
            "code_version": self.tags.get("code_version", ""),
        }


def list_models(settings: Settings, pipeline: Trainable) -> list[ModelVersion]:
    """All versions of the model that the pipeline trains, newest first; empty if none is registered."""
    if not pipeline.is_trained:
        return []
    return look_once(("models", settings.mlflow_tracking_uri, pipeline.name), lambda: _list(settings, pipeline.name))


def _list(settings: Settings, name: str) -> list[ModelVersion]:
    known = find_versions(settings, name)
    if known is not None:
        return sorted((read_version(each, each.aliases, each.tags) for each in known), key=lambda each: -each.version)
    client = connect_mlflow(settings)
    found = client.search_model_versions(f"name='{name}'", max_results=1000)
    aliases = _aliases(client, name) if found else {}
    versions = [read_version(version, aliases.get(int(version.version), ()), dict(version.tags)) for version in found]
    return sorted(versions, key=lambda version: -version.version)


def training_tables(settings: Settings) -> set[tuple[str, int]]:
    """Names and Delta versions of all registered models' training tables, including models of undeclared pipelines."""
    client, found, token = connect_mlflow(settings), set[tuple[str, int]](), None
    while token != "":
        page = client.search_model_versions(max_results=1000, page_token=token)
        own = [read_version(version, (), dict(version.tags)) for version in page]
        found |= {version.training_table for version in own if version.is_own}
        token = page.token or ""
    return found


def model_version(settings: Settings, pipeline: Trainable, version: int) -> ModelVersion:
    """The version with a number; NotFoundError, which lists the existing ones, without it."""
    known = list_models(settings, pipeline)
    for candidate in known:
        if candidate.version == version:
            return candidate
    listed = ", ".join(str(candidate.version) for candidate in known)
    remedy = f"Its versions: {listed}." if known else f"It has none; `forecache train {pipeline.name}` makes the first."
    raise NotFoundError(f"Model {pipeline.name!r} has no version {version}.", remedy=remedy)


def diff_models(settings: Settings, pipeline: Trainable, first: int, second: int) -> dict[str, tuple[Any, Any]]:
    """Pairs of values that differ between two versions: metrics, training data, code, features, parameters."""
    sides = []
    for number in (first, second):
        version = model_version(settings, pipeline, number)
        parameters = find_run_parameters(settings, version.run_id) if version.run_id else {}
        if parameters is None:
            parameters = connect_mlflow(settings).get_run(version.run_id).data.params
        own = (CHECKSUMS_TAG, JUDGED_TAG, JUDGED_CHECKSUMS_TAG)
        tags = {name: value for name, value in version.tags.items() if name not in own}
        sides.append({**parameters, **tags, **version.metrics})
    names = sorted({*sides[0], *sides[1]})
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def champion(settings: Settings, pipeline: Trainable) -> ModelVersion:
    """The version with the alias `champion`; NotFoundError if none has passed the gate yet."""
    for version in list_models(settings, pipeline):
        if CHAMPION in version.aliases:
            return version
    raise NotFoundError(
        f"{pipeline.display_name} has no champion yet.",
        remedy=f"Run `forecache train {pipeline.name}`: a model that passes the gate becomes the champion.",
    )


def find_champion(settings: Settings, pipeline: Trainable) -> ModelVersion | None:
    """The champion, None without one."""
    try:
        return champion(settings, pipeline)
    except NotFoundError:
        return None


def verified_folder(settings: Settings, version: ModelVersion) -> Path:
    """The version's model folder on this machine, downloaded if necessary; CheckError if a file was changed, added or
    removed since the version was registered."""
    folder = find_model_folder(settings, version.name, version.version)
    folder = folder or download_artifact(settings, artifact_uri=version.uri)
    refuse_changed_files(folder, version.name, version.version, version.tags)
    return folder


def judged_folder(settings: Settings, version: ModelVersion) -> Path:
    """The folder of the model that the gate judges: the version's own, or the one before it was fitted again on all
    labelled dates; CheckError if a file is not as it was when the version was registered."""
    if JUDGED_TAG not in version.tags:
        return verified_folder(settings, version)
    folder = download_artifact(settings, artifact_uri=version.tags[JUDGED_TAG])
    checksums = {CHECKSUMS_TAG: version.tags[JUDGED_CHECKSUMS_TAG]}
    refuse_changed_files(folder, version.name, version.version, checksums)
    return folder


@contextmanager
def registry_lock(settings: Settings, model: str, *, action: str, run_id: str = "") -> Iterator[Lease]:
    """Lock a model's aliases and rows of the ledger, so that one decision about it is made at a time, on all machines
    of the installation. The ledger's commit and each move of an alias name the lease."""
    with hold_exclusively(settings, f"registry/{model}", action=action, run_id=run_id) as lease:
        yield lease


def _aliases(client: "MlflowClient", name: str) -> dict[int, list[str]]:
    aliases: dict[int, list[str]] = {}
    for alias, version in client.get_registered_model(name).aliases.items():
        aliases.setdefault(int(version), []).append(alias)
    return aliases


def read_version(version: Any, aliases: Iterable[str], tags: Mapping[str, str]) -> ModelVersion:
    """A version from MLflow's record of it; gate and metrics are read from the tags."""
    number = int(version.version)
    return ModelVersion(
        name=version.name,
        version=number,
        run_id=version.run_id or "",
        uri=f"models:/{version.name}/{number}",
        aliases=tuple(sorted(aliases)),
        gate=tags.get("gate", "pending"),
        created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, timezone.utc),
        metrics=json.loads(tags.get("test_metrics", "{}")),
        tags={"as_of" if tag == "night" else tag: value for tag, value in tags.items()},  # of earlier versions
    )
