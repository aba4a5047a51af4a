"""The alias `challenger`: the version that is scored beside the champion, chosen by a person."""

from forecache.errors import CheckError
from forecache.pipeline import Pipeline
from forecache.registry.models import CHAMPION, ModelVersion, list_models, model_version, registry_lock, tracking
from forecache.settings import Settings

CHALLENGER = "challenger"


def find_challenger(settings: Settings, pipeline: Pipeline) -> ModelVersion | None:
    """The version behind the alias, None where there is none or it has become the champion."""
    for version in list_models(settings, pipeline):
        if CHALLENGER in version.aliases and CHAMPION not in version.aliases:
            return version
    return None


def name_challenger(settings: Settings, pipeline: Pipeline, version: int) -> ModelVersion:
    """Make a registered version the challenger, whatever the gate said of it: nothing of it is published.

    Raises:
        NotFoundError: No such version.
        CheckError: It is the champion.
    """
    with registry_lock(settings):
        if CHAMPION in model_version(settings, pipeline, version).aliases:
            raise CheckError(
                f"Model {pipeline.name!r} version {version} is the champion.", remedy="Name another version."
            )
        tracking(settings).set_registered_model_alias(pipeline.name, CHALLENGER, str(version))
        return model_version(settings, pipeline, version)


def dismiss_challenger(settings: Settings, pipeline: Pipeline) -> ModelVersion | None:
    """Take the alias away; returns the version that had it, None where none had."""
    with registry_lock(settings):
        holders = [version for version in list_models(settings, pipeline) if CHALLENGER in version.aliases]
        if not holders:
            return None
        tracking(settings).delete_registered_model_alias(pipeline.name, CHALLENGER)
        return holders[0]
