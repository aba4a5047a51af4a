"""The features that a model scores: those of its training, also after the pipeline's features have changed."""

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.lake.kept_definitions import read_definition
from forecache.models.registry.model_versions import CHAMPION, FEATURES_TAG, ModelVersion


def find_scored_pipeline(settings: Settings, pipeline: Pipeline, version: ModelVersion) -> Pipeline:
    """The pipeline with the features that a version scores: those of its training, if their definition is kept."""
    trained_on = version.tags.get(FEATURES_TAG)
    if not pipeline.is_trained or trained_on is None or trained_on == pipeline.fingerprints.features:
        return pipeline
    try:
        definition = read_definition(settings, pipeline.name, trained_on, "features")
    except NotFoundError:
        return pipeline
    return pipeline if definition.problem else pipeline.read_features(definition.kept_name, version.features)


def find_other_features(settings: Settings, pipeline: Pipeline, version: ModelVersion) -> list[str]:
    """The note about a version that was trained on features of another definition; [] if it was not, as far as is
    known.
    """
    if not pipeline.is_trained or version.tags.get(FEATURES_TAG) in (None, pipeline.fingerprints.features):
        return []
    called = f"{'champion' if CHAMPION in version.aliases else 'model'} {version.name} {version.version}"
    if find_scored_pipeline(settings, pipeline, version) is not pipeline:
        why = "goes on with the features that it was trained on, which changed since"
    else:
        why = "was trained on features of another definition, which is not kept, and scores the present ones"
    return [f"The {called} {why}: `forecache train {pipeline.name}`."]
