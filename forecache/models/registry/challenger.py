"""The alias `challenger`: a version, chosen by a person, that is scored together with the champion."""

from forecache.base.errors import CheckError
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.models.registry.alias_moves import find_equal_champion
from forecache.models.registry.aliases import reconcile_aliases
from forecache.models.registry.versions.model_versions import (
    CHALLENGER,
    CHAMPION,
    REJECTED,
    ROLLED_BACK,
    ModelVersion,
    list_models,
    model_version,
    registry_lock,
)
from forecache.models.tracking.client import connect_mlflow


def find_challenger(settings: Settings, pipeline: Trainable) -> ModelVersion | None:
    """The version with the alias; None if there is none, or if it has become the champion."""
    for version in list_models(settings, pipeline):
        if CHALLENGER in version.aliases and CHAMPION not in version.aliases:
            return version
    return None


def name_challenger(settings: Settings, pipeline: Trainable, version: int) -> ModelVersion:
    """Make a registered version the challenger; it has passed the gate, waits for approval, or is not judged yet.

    Raises:
        NotFoundError: The version does not exist.
        CheckError: It is the champion or has the same inputs and weights as one, did not pass the gate, was rejected by
            a person, or was rolled back.
        ConflictError: A rollback or a person's promotion is under way on another machine, or was interrupted.
    """
    with registry_lock(settings):
        entries = reconcile_aliases(settings, pipeline)
        chosen = model_version(settings, pipeline, version)
        equal = find_equal_champion(settings, pipeline, chosen, entries)
        objection = _objection(chosen) or (
            equal and f"it has the same inputs and weights as version {equal.version}, which has been champion"
        )
        if objection:
            raise CheckError(
                f"Model {pipeline.name!r} version {version} cannot be the challenger: {objection}.",
                remedy=f"Name another version; `forecache models list {pipeline.name}` shows them.",
            )
        connect_mlflow(settings).set_registered_model_alias(pipeline.name, CHALLENGER, str(version))
        return model_version(settings, pipeline, version)


def _objection(version: ModelVersion) -> str | None:
    if CHAMPION in version.aliases:
        return "it is the champion"
    if version.gate == ROLLED_BACK:
        return "it was rolled back"
    if version.gate == REJECTED:
        return f"it was {version.tags['gate_reason']}"
    if version.gate == "failed":
        return f"it did not pass the gate, {version.tags['gate_reason']}"
    return None


def dismiss_challenger(settings: Settings, pipeline: Trainable) -> ModelVersion | None:
    """Remove the alias; returns the version that had it, or None."""
    with registry_lock(settings):
        holders = [version for version in list_models(settings, pipeline) if CHALLENGER in version.aliases]
        if not holders:
            return None
        connect_mlflow(settings).delete_registered_model_alias(pipeline.name, CHALLENGER)
        return holders[0]
