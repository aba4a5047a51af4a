"""A declaration with a model: the parts of it that training, the gate and the registry take, and their hashes.

A stage is current while the hash of what it reads is equal: no such part has changed.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from forecache.base.errors import InputError
from forecache.base.output_kinds import OutputSpec
from forecache.base.table_names import TRAINING_SET
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.features.features import Feature, Label
from forecache.declare.models.applied import FunctionModel, RegisteredModel, SqlModel
from forecache.declare.models.gate import Gate
from forecache.declare.models.model import EstimatorModel, TorchModel, Training
from forecache.declare.models.output import AnyOutput, Classes, Quantiles

Task = Literal["binary", "regression", "multiclass", "quantiles", "ranking"]
AnyModel = TorchModel | EstimatorModel | RegisteredModel | FunctionModel | SqlModel
TRAINED = (TorchModel, EstimatorModel)
"""The kinds of model that are trained here."""


@dataclass(frozen=True)
class ExampleLabel:
    """The label of a real-time model's examples; the function returns it with the rows."""

    name: str
    kind: Literal["binary", "regression", "ranking"]
    compute: Callable[..., Any]
    weight: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.name, self.weight) if self.weight else (self.name,)

    @property
    def computation(self) -> Any:
        return self.compute


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
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


class Trainable(Protocol):
    """A declaration with a model: a `Pipeline` or a `Realtime`.

    Attributes:
        kind_name: Its kind in messages.
        key: Columns that identify a row of the training set together with `as_of`.
        group_column: Column of the training set by which rows are ranked and judged together; "": each by itself.
        feature_table: Delta table of the features that are scored; "": there is none.
        outputs: What the model returns; the first one is learned from the label.
        label: None if the model is not trained here.
        gate: None if the model is not trained here.
        fingerprint: Hash of the whole declaration; `fingerprints` are those of each stage.
    """

    kind_name: ClassVar[str]
    group_column: ClassVar[str] = ""

    if TYPE_CHECKING:  # a dataclass cannot have a field of the name of a property of its base

        @property
        def name(self) -> str: ...
        @property
        def key(self) -> tuple[str, ...]: ...
        @property
        def feature_columns(self) -> tuple[Feature, ...]: ...
        @property
        def feature_table(self) -> str: ...
        @property
        def label(self) -> Label | ExampleLabel | None: ...
        @property
        def model(self) -> AnyModel: ...
        @property
        def training(self) -> Training: ...
        @property
        def gate(self) -> Gate | None: ...
        @property
        def outputs(self) -> tuple[AnyOutput, ...]: ...
        @property
        def fingerprints(self) -> Fingerprints: ...
        @property
        def fingerprint(self) -> str: ...
        @property
        def description(self) -> str: ...
        @property
        def owner(self) -> str: ...

    @property
    def display_name(self) -> str:
        """The name at the beginning of a message: "Pipeline 'churn'", "Realtime 'search'"."""
        return f"{type(self).__name__} {self.name!r}"

    @property
    def inline_name(self) -> str:
        """The name inside a sentence: "pipeline 'churn'", "real-time model 'search'"."""
        return f"{self.kind_name} {self.name!r}"

    @property
    def training_table(self) -> str:
        """Delta table: key, as_of, split ("train", "validation", "test"), features (float32), label (double)."""
        return TRAINING_SET + self.name

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.feature_columns)

    @property
    def main_output(self) -> AnyOutput:
        """The output that the label, the gate and the drift checks are about: the first."""
        return self.outputs[0]

    @property
    def output_specs(self) -> tuple[OutputSpec, ...]:
        return tuple(output.spec for output in self.outputs)

    @property
    def task(self) -> Task:
        """The key of metrics and plots: the kind of the label, or by the metrics of the floors, or "quantiles"."""
        if isinstance(self.main_output, Quantiles):
            return "quantiles"
        if isinstance(self.model, RegisteredModel) and self.model.floors:
            return "multiclass" if isinstance(self.main_output, Classes) else self.model.kind
        return self.trained_label.kind

    @property
    def is_trained(self) -> bool:
        """True if the model is trained here, False if it is applied as it is."""
        return isinstance(self.model, TRAINED)

    @property
    def trained_label(self) -> Label | ExampleLabel:
        """The label; raises InputError if the model is not trained here."""
        if self.label is None:
            raise not_trained_error(self)
        return self.label

    @property
    def label_inputs(self) -> Any:
        """The function of the label, or the canonical text of its SQL, for fingerprints."""
        return self.trained_label.computation

    @property
    def trained_gate(self) -> Gate:
        """The gate; raises InputError if the model is not trained here."""
        if self.gate is None:
            raise not_trained_error(self)
        return self.gate

    @property
    def network(self) -> TorchModel:
        """The model of a declaration that trains a torch network; there is no other in a torchrun worker."""
        assert isinstance(self.model, TorchModel)
        return self.model

    def replace_training(self, training: Training) -> "Trainable":
        changed: Trainable = replace(self, training=training)  # type: ignore[type-var]
        return changed


def not_trained_error(declared: Trainable) -> InputError:
    """The error for training, gate, champion or challenger of a model that is not trained here."""
    return InputError(
        f"The model of {declared.inline_name} is a `{type(declared.model).__name__}`, which is not trained here: "
        "there is nothing to train, to tune, to judge or to promote.",
        remedy=f"`forecache run {declared.name}` applies it.",
    )


def fingerprint_stages(declared: Trainable, computed: Mapping[str, Any], segments: Sequence[Any] = ()) -> Fingerprints:
    """Compute the hashes of a declaration; `computed` is all that its features are computed by."""
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


def _fingerprint_training(declared: Trainable, rows: dict[str, Any]) -> tuple[str, str]:
    """The hashes of the training set and of the training; without a label, "" and the hash of the model."""
    label, model = declared.label, declared.model
    if label is None:
        return "", fingerprint(model=model)
    classes = declared.output_specs[0].classes  # the training set is checked against them
    horizon_days = label.horizon_days if isinstance(label, Label) else None
    described = (label.name, label.kind, horizon_days, declared.label_inputs, label.weight, classes)
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


def _training_inputs(declared: Trainable) -> Any:
    """The parts of `Training` that the trained model depends on: for an estimator the seed, and whether it is fitted
    again."""
    training = declared.training
    if not isinstance(declared.model, EstimatorModel):
        return training
    return (training.seed, "refit") if training.refit else training.seed
