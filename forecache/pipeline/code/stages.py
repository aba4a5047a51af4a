"""What each stage reads of a declaration, as one hash a stage: equal hashes mean that nothing it reads has changed."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from forecache.output_kinds import OutputSpec
from forecache.pipeline.code.fingerprint import fingerprint
from forecache.pipeline.models.applied import RegisteredModel
from forecache.pipeline.models.model import EstimatorModel

if TYPE_CHECKING:
    from forecache.pipeline.declaration import Pipeline


@dataclass(frozen=True)
class Fingerprints:
    """The declaration's part of the inputs of the stages; each covers what its stage reads itself.

    Of a pipeline that trains no model, `training_set` is empty and `training` is of the model as it is declared.

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
    views, entities = [view.fingerprint for view in pipeline.views], pipeline.entities
    joined = {"entities": (entities.columns, entities.compute)} if entities else {}
    rows: dict[str, Any] = {"key": pipeline.key, "features": pipeline.feature_names}
    # What others' models return under which names is a part of the declaration, and not of the model.
    returns = {"returns": pipeline.model.returns} if isinstance(pipeline.model, RegisteredModel) else {}
    training_set, training = _of_training(pipeline, {**rows, **joined, "views": views})
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


def _of_training(pipeline: "Pipeline", rows: dict[str, Any]) -> tuple[str, str]:
    """The hashes of the training set and of the training; without a label, "" and the model's."""
    label, model = pipeline.label, pipeline.model
    if label is None:
        return "", fingerprint(model=model)
    classes = pipeline.output_specs[0].classes  # which the training set is checked against
    described = (label.name, label.kind, label.horizon_days, label.compute, label.weight, classes)
    return fingerprint(**rows, label=described, split=pipeline.training.split), fingerprint(
        features=[feature.learned for feature in pipeline.feature_columns],
        label=(label.name, label.kind, label.weight),
        outputs=[_learned(output) for output in pipeline.output_specs],
        model=model,
        training=_training(pipeline),
    )


def _learned(output: OutputSpec) -> OutputSpec:
    """What training reads of an output: not its bounds, nor how many probabilities are kept."""
    return replace(output, minimum=None, maximum=None, top=None)


def _training(pipeline: "Pipeline") -> Any:
    """Of an estimator's training, the seed counts alone; its dates are in the training set."""
    return pipeline.training.seed if isinstance(pipeline.model, EstimatorModel) else pipeline.training
