"""One hash for each stage of the parts of a declaration that it reads: if they are equal, no such part has changed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from forecache.base.output_kinds import OutputSpec
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.features.features import Label
from forecache.declare.models.applied import RegisteredModel
from forecache.declare.models.model import EstimatorModel

if TYPE_CHECKING:
    from forecache.declare.trainable import Trainable


@dataclass(frozen=True)
class Fingerprints:
    """Hashes of the parts of a declaration that each stage reads.

    If no model is trained, `training_set` is "" and `training` is the hash of the declared model. Inputs that a stage
    reads from a table, such as features in training, are covered by the table's Delta version. `digest` hashes the
    `repr` of this class: its name and its fields must not change.
    """

    features: str
    training_set: str
    training: str
    scoring: str

    @property
    def digest(self) -> str:
        """Hash of all of them."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def fingerprint_stages(
    declared: "Trainable", computed: Mapping[str, Any], segments: Sequence[Any] = ()
) -> Fingerprints:
    """Compute the hashes of a declaration.

    Args:
        computed: Everything that its features are computed by, by name.
        segments: Values of the segments that are cut from its outputs.

    Raises:
        SettingsError: The declaration holds a value that cannot be compared between two runs.
    """
    rows: dict[str, Any] = {"key": declared.key, "features": declared.feature_names}
    # The names of a registered model's outputs belong to the declaration, not to the model.
    returns = {"returns": declared.model.returns} if isinstance(declared.model, RegisteredModel) else {}
    training_set, training = _fingerprint_training(declared, {**rows, **computed})
    return Fingerprints(
        features=fingerprint(**rows, **computed),
        training_set=training_set,
        training=training,
        scoring=fingerprint(**rows, **returns, outputs=list(declared.output_specs), segments=list(segments)),
    )


def _fingerprint_training(declared: "Trainable", rows: dict[str, Any]) -> tuple[str, str]:
    """The hashes of the training set and of the training; without a label, "" and the hash of the model."""
    label, model = declared.label, declared.model
    if label is None:
        return "", fingerprint(model=model)
    classes = declared.output_specs[0].classes  # the training set is checked against them
    horizon_days = label.horizon_days if isinstance(label, Label) else None
    described = (label.name, label.kind, horizon_days, label.compute, label.weight, classes)
    return fingerprint(**rows, label=described, split=declared.training.split), fingerprint(
        features=[feature.training_inputs for feature in declared.feature_columns],
        label=(label.name, label.kind, label.weight),
        outputs=[_drop_serving_limits(output) for output in declared.output_specs],
        model=model,
        training=_training_inputs(declared),
    )


def _drop_serving_limits(output: OutputSpec) -> OutputSpec:
    """An output without its bounds and its number of probabilities, which training does not read."""
    return replace(output, minimum=None, maximum=None, top=None)


def _training_inputs(declared: "Trainable") -> Any:
    """The parts of `Training` that the trained model depends on: for an estimator the seed alone."""
    return declared.training.seed if isinstance(declared.model, EstimatorModel) else declared.training
