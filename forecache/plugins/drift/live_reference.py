"""The reference for drift of a release's live features and scores: the training data of its model, in bins."""

import logging

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.declare.realtime.realtime import Realtime
from forecache.models.registry.model_versions import ModelVersion
from forecache.plugins.drift.distributions.binned_counts import are_classes
from forecache.plugins.drift.distributions.drift import test_split_scores
from forecache.plugins.drift.feature_drift import FeatureReference, feature_reference
from forecache.plugins.drift.live_counts import SCORE, ColumnBins, DriftReference

logger = logging.getLogger("forecache.operations")


def live_bins(settings: Settings, realtime: Realtime, model: ModelVersion) -> bytes | None:
    """The result of `live_reference` as the content of a file of the release."""
    reference = live_reference(settings, realtime, model)
    return None if reference is None else reference.to_json()


def live_reference(settings: Settings, realtime: Realtime, model: ModelVersion) -> DriftReference | None:
    """The bins of a model's training split and of its scores on the test split; None for a model that was not
    trained here, or whose training data is gone."""
    if not realtime.is_trained or not model.is_own:
        return None
    try:
        features = feature_reference(settings, realtime, model)
    except NotFoundError as error:
        logger.warning("Drift of %s is not counted live: %s", realtime.name, error)
        return None
    columns = [_feature_bins(name, features) for name in realtime.feature_names]
    scores = test_split_scores(settings, model)
    if scores is not None and not are_classes(scores[0]):
        edges = tuple(float(edge) for edge in scores[0])
        columns.append(ColumnBins(SCORE, edges, (*scores[1], 0)))
    table, version = model.training_table
    return DriftReference(tuple(columns), f"training split of {table}@{version}")


def _feature_bins(name: str, reference: FeatureReference) -> ColumnBins:
    """The bins of a feature; one bin without rows if the model does not take it."""
    if name not in reference.edges:
        return ColumnBins(name, (), (0, 0))
    low, high = reference.ranges.get(name, (None, None))
    return ColumnBins(name, tuple(reference.edges[name]), tuple(reference.counts[name]), low, high)
