"""What each stage reads of a declaration, as one hash a stage: equal hashes mean that nothing it reads has changed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forecache.pipeline.code.fingerprint import fingerprint
from forecache.pipeline.model import EstimatorModel

if TYPE_CHECKING:
    from forecache.pipeline.declaration import Pipeline


@dataclass(frozen=True)
class Fingerprints:
    """The declaration's part of the inputs of the stages; each covers what its stage reads itself.

    What a stage gets from a table, such as features in training, is covered by that table's Delta version.
    """

    features: str
    training_set: str
    training: str
    scoring: str


def fingerprints(pipeline: "Pipeline") -> Fingerprints:
    """The hashes of a pipeline.

    Raises:
        SettingsError: The declaration holds a value that cannot be compared between two runs.
    """
    features, label, output = pipeline.features, pipeline.label, pipeline.main_output
    rows: dict[str, Any] = {"key": pipeline.key, "features": features.names}
    return Fingerprints(
        features=fingerprint(**rows, compute=features.compute),
        training_set=fingerprint(
            **rows,
            compute=features.compute,
            label=label and (label.name, label.kind, label.horizon_days, label.compute),
        ),
        training=fingerprint(
            features=[(feature.name, feature.log) for feature in features.columns],
            label=label and (label.name, label.kind),
            output=output.name,
            model=pipeline.model,
            training=_training(pipeline),
        ),
        scoring=fingerprint(
            **rows,
            output=(output.name, output.minimum, output.maximum),
            segments=[(cut.name, cut.of, cut.bounds, cut.labels) for cut in pipeline.segments],
        ),
    )


def _training(pipeline: "Pipeline") -> Any:
    """Of an estimator's training, the seed counts alone; its dates are in the training set."""
    return pipeline.training.seed if isinstance(pipeline.model, EstimatorModel) else pipeline.training
