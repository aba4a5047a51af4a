"""The features that a model scores: those of its training, also after the pipeline's features have changed."""

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.base.steps import is_looking, look_once
from forecache.declare import Pipeline
from forecache.lake.kept_definitions import KeptDefinition, read_definition
from forecache.models.registry.model_versions import CHAMPION, FEATURES_TAG, ModelVersion


def find_scored_pipeline(settings: Settings, pipeline: Pipeline, version: ModelVersion) -> Pipeline:
    """The pipeline with the features that a version scores: those of its training, if their definition is kept."""
    definition = _read_definition(settings, pipeline, version) if _has_other_features(pipeline, version) else None
    if definition is None or definition.problem or _is_present(settings, pipeline, definition):
        return pipeline
    return pipeline.read_features(definition.kept_name, version.features)


def assume_present(settings: Settings, definition: KeptDefinition) -> None:
    """Let later stages of a look take a definition for that of the present features."""
    _list_assumed(settings).add(definition.contract)


def _is_present(settings: Settings, pipeline: Pipeline, definition: KeptDefinition) -> bool:
    is_same = definition.same_as == pipeline.fingerprints.features
    return is_same or (is_looking() and definition.contract in _list_assumed(settings))


def _list_assumed(settings: Settings) -> set[str]:
    return look_once(("present", settings.lake_uri), set[str])


def _has_other_features(pipeline: Pipeline, version: ModelVersion) -> bool:
    """Return whether a version is known to be trained on features that had another fingerprint."""
    return pipeline.is_trained and version.tags.get(FEATURES_TAG) not in (None, pipeline.fingerprints.features)


def _read_definition(settings: Settings, pipeline: Pipeline, version: ModelVersion) -> KeptDefinition | None:
    """The kept definition of the features that a version was trained on; None without one."""
    try:
        return read_definition(settings, pipeline.name, version.tags[FEATURES_TAG], "features")
    except NotFoundError:
        return None


def find_other_features(settings: Settings, pipeline: Pipeline, version: ModelVersion) -> list[str]:
    """The note about a version that was trained on features of another definition; [] if it was not, as far as is
    known.
    """
    if not _has_other_features(pipeline, version):
        return []
    definition = _read_definition(settings, pipeline, version)
    if definition is not None and _is_present(settings, pipeline, definition):
        return []
    called = f"{'champion' if CHAMPION in version.aliases else 'model'} {version.name} {version.version}"
    if definition is not None and not definition.problem:
        why = "goes on with the features that it was trained on, which changed since"
    else:
        why = "was trained on features of another definition, which is not kept, and scores the present ones"
    return [f"The {called} {why}: `forecache train {pipeline.name}`."]
