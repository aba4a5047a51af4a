"""One hash for each stage of the parts of a declaration that it reads: if they are equal, no such part has changed."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from forecache.base.output_kinds import OutputSpec
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.models.applied import RegisteredModel
from forecache.declare.models.model import EstimatorModel

if TYPE_CHECKING:
    from forecache.declare.declaration import Pipeline


@dataclass(frozen=True)
class Fingerprints:
    """Hashes of the parts of a declaration that each stage reads.

    If a pipeline trains no model, `training_set` is "" and `training` is the hash of the declared model. Inputs that a
    stage reads from a table, such as features in training, are covered by the table's Delta version. `Pipeline` hashes
    the `repr` of this class: its name and its fields must not change.
    """

    features: str
    training_set: str
    training: str
    scoring: str


def fingerprint_stages(pipeline: "Pipeline") -> Fingerprints:
    """Compute the hashes of a pipeline.

    Raises:
        SettingsError: The declaration holds a value that cannot be compared between two runs.
    """
    views, entities = [view.fingerprint for view in pipeline.views], pipeline.entities
    joined = {"entities": (entities.columns, entities.compute)} if entities else {}
    rows: dict[str, Any] = {"key": pipeline.key, "features": pipeline.feature_names}
    # The names of a registered model's outputs belong to the declaration, not to the model.
    returns = {"returns": pipeline.model.returns} if isinstance(pipeline.model, RegisteredModel) else {}
    training_set, training = _fingerprint_training(pipeline, {**rows, **joined, "views": views})
    return Fingerprints(
        features=fingerprint(**rows, **joined, views=views),
        training_set=training_set,
        training=training,
        scoring=fingerprint(
            **rows,
            **returns,
            outputs=list(pipeline.output_specs),
            segments=[(cut.name, cut.of, cut.bounds, cut.labels) for cut in pipeline.segments],
        ),
    )


def _fingerprint_training(pipeline: "Pipeline", rows: dict[str, Any]) -> tuple[str, str]:
    """The hashes of the training set and of the training; without a label, "" and the hash of the model."""
    label, model = pipeline.label, pipeline.model
    if label is None:
        return "", fingerprint(model=model)
    classes = pipeline.output_specs[0].classes  # the training set is checked against them
    described = (label.name, label.kind, label.horizon_days, label.compute, label.weight, classes)
    return fingerprint(**rows, label=described, split=pipeline.training.split), fingerprint(
        features=[feature.training_inputs for feature in pipeline.feature_columns],
        label=(label.name, label.kind, label.weight),
        outputs=[_drop_serving_limits(output) for output in pipeline.output_specs],
        model=model,
        training=_training_inputs(pipeline),
    )


def _drop_serving_limits(output: OutputSpec) -> OutputSpec:
    """An output without its bounds and its number of probabilities, which training does not read."""
    return replace(output, minimum=None, maximum=None, top=None)


def _training_inputs(pipeline: "Pipeline") -> Any:
    """The parts of `Training` that the trained model depends on: for an estimator the seed alone."""
    return pipeline.training.seed if isinstance(pipeline.model, EstimatorModel) else pipeline.training
