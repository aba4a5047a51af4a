"""Which parts of a declaration belong together where the model is trained here, and where it is applied as it is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from forecache.errors import InputError, SettingsError
from forecache.pipeline.applied import FunctionModel, RegisteredModel, SqlModel
from forecache.pipeline.checking import check_value
from forecache.pipeline.expressions import check_expression
from forecache.pipeline.model import EstimatorModel, TorchModel, Training
from forecache.pipeline.policies import METRICS

if TYPE_CHECKING:
    from forecache.pipeline.declaration import Pipeline
    from forecache.pipeline.served import Served

TRAINED = (TorchModel, EstimatorModel)
"""The kinds of model that are trained here."""


def not_trained(pipeline: "Pipeline") -> InputError:
    """What is said where a pipeline is asked for training, a gate, a champion or a challenger that it cannot have."""
    return InputError(
        f"The model of pipeline {pipeline.name!r} is a `{type(pipeline.model).__name__}`, which is not trained here: "
        "there is nothing to train, to tune, to judge or to promote.",
        remedy=f"`forecache run {pipeline.name}` applies it.",
    )


def require_published(pipeline: "Served") -> None:
    """Refuse a pipeline that is not published.

    Raises:
        InputError: It declares `publish=None`.
    """
    if pipeline.publish is None:
        raise not_published(pipeline.name)


def not_published(name: str) -> InputError:
    """What is said where the store of a pipeline is asked for that declares `publish=None`."""
    return InputError(
        f"Pipeline {name!r} is not published: it is declared with publish=None.",
        remedy=f"Its predictions are in the table predictions_{name}: `forecache query` reads it.",
    )


def check_training(owner: str, pipeline: "Pipeline") -> None:
    """Refuse a model that is trained without label or gate, and training of one that is not.

    Raises:
        SettingsError: The message names what is missing or too much.
    """
    kind = f"a `{type(pipeline.model).__name__}`"
    if isinstance(pipeline.model, TRAINED):
        for name in ("label", "gate"):
            if getattr(pipeline, name) is None:
                raise SettingsError(f"{owner} trains {kind} and has no {name}.", remedy=f"Declare its {name}.")
        _check_gate(owner, pipeline)
        return
    given = [name for name in ("label", "gate", "retraining") if getattr(pipeline, name) is not None]
    given += ["training"] if pipeline.training != Training() else []
    given += ["shadow"] if pipeline.shadow else []
    if given:
        raise SettingsError(
            f"{owner} declares {given[0]!r}, and its model, {kind}, is not trained here.", remedy="Leave it out."
        )
    _check_outputs(owner, pipeline, pipeline.model)


def _check_outputs(owner: str, pipeline: "Pipeline", model: RegisteredModel | FunctionModel | SqlModel) -> None:
    outputs = [output.name for output in pipeline.outputs]
    listed = f"Its outputs are {', '.join(outputs)}."
    for name in model.returns if isinstance(model, RegisteredModel) else ():
        if name not in outputs:
            raise SettingsError(f"{owner} says what its model returns as {name!r}, which is no output.", remedy=listed)
    if isinstance(model, SqlModel):
        given = model.expression if isinstance(model.expression, Mapping) else dict.fromkeys(outputs[:1])
        other = set(given) ^ set(outputs)
        if other:
            raise SettingsError(f"{owner} has {min(other)!r} as an output or an expression only.", remedy=listed)
        for text in model.by_output(outputs):
            check_expression(f"{owner}, in its `SqlModel`,", text, pipeline.feature_names)


def _check_gate(owner: str, pipeline: "Pipeline") -> None:
    label, gate, features = pipeline.trained_label, pipeline.trained_gate, pipeline.feature_names
    computed = f"Its features are {', '.join(features)}."
    if gate.baseline.feature not in features:
        raise SettingsError(
            f"{owner} has the baseline feature {gate.baseline.feature!r}, which it does not compute.", remedy=computed
        )
    known = METRICS[label.kind]
    for metric in (gate.metric, *gate.floors):
        if metric not in known:
            raise SettingsError(
                f"{owner} judges a {label.kind} label by {metric!r} in its gate, which is no metric of it.",
                remedy=f"Those are {', '.join(known)}.",
            )
    ignored = pipeline.retraining.ignore if pipeline.retraining else ()
    for about, columns in (("slices its gate by", gate.slices), ("ignores", ignored)):
        for column in columns:
            if column not in features:
                where = " in its retraining" if about == "ignores" else ""
                raise SettingsError(f"{owner} {about} {column!r}{where}, which is not a feature.", remedy=computed)
    if label.kind == "binary" and isinstance(pipeline.model, TorchModel):
        rule = "log1p is for a regression; a binary label takes 'identity'."
        check_value(owner, "model.target", pipeline.model.target, pipeline.model.target == "identity", rule)
