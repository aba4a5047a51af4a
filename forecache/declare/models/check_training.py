"""Check that a declaration has the parts that a model that is trained here, or one that is applied as it is, needs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from forecache.base.errors import InputError, SettingsError
from forecache.base.output_kinds import JUDGED
from forecache.declare.models.applied import FunctionModel, RegisteredModel, SqlModel
from forecache.declare.models.expressions import check_expression
from forecache.declare.models.gate import METRICS
from forecache.declare.models.model import Training
from forecache.declare.models.task import check_gate, check_training_outputs
from forecache.declare.trainable import Trainable

if TYPE_CHECKING:
    from forecache.declare.served import Served


def require_published(pipeline: "Served") -> None:
    """Refuse a declaration that is not published.

    Raises:
        InputError: It declares `publish=None`.
    """
    _ = pipeline.publishing


def not_published_error(name: str) -> InputError:
    """The error for the store of a pipeline that declares `publish=None`."""
    return InputError(
        f"Pipeline {name!r} is not published: it is declared with publish=None.",
        remedy=f"Its predictions are in the table predictions_{name}: `forecache query` reads it.",
    )


def check_training(owner: str, declared: Trainable, *, needed: Sequence[str], only_trained: Sequence[str] = ()) -> None:
    """Refuse a trained model without label or gate, and settings of training for a model that is applied as it is.

    Args:
        needed: Attributes that a model that is trained here needs, and another one does not have.
        only_trained: Further declared attributes that a model that is applied as it is cannot have.

    Raises:
        SettingsError: The message names the missing or unneeded part.
    """
    kind = f"a `{type(declared.model).__name__}`"
    if declared.is_trained:
        for name in needed:
            if getattr(declared, name) is None:
                raise SettingsError(f"{owner} trains {kind} and has no {name}.", remedy=f"Declare its {name}.")
        check_training_outputs(owner, declared)
        check_gate(owner, declared)
        return
    given = [name for name in needed if getattr(declared, name) is not None]
    given += [*only_trained, *(["training"] if declared.training != Training() else [])]
    if given:
        raise SettingsError(
            f"{owner} declares {given[0]!r}, and its model, {kind}, is not trained here.", remedy="Leave it out."
        )
    _check_applied_model(owner, declared)


def _check_applied_model(owner: str, declared: Trainable) -> None:
    model, outputs = declared.model, [output.name for output in declared.outputs]
    listed = f"Its outputs are {', '.join(outputs)}."
    for name in model.returns if isinstance(model, RegisteredModel) else ():
        if name not in outputs:
            raise SettingsError(f"{owner} says what its model returns as {name!r}, which is no output.", remedy=listed)
    if isinstance(model, RegisteredModel) and model.floors:
        # The task follows from the metrics of the floors; an output that is a number needs metrics of numbers.
        is_number = declared.output_specs[0].kind == "number"
        known = METRICS["regression" if is_number and declared.task in ("multiclass", "quantiles") else declared.task]
        strange = [name for name in model.floors if name not in known]
        if strange or declared.output_specs[0].kind not in JUDGED:
            raise SettingsError(
                f"{owner} has the floors {', '.join(model.floors)}, and its first output, {outputs[0]!r}, is of "
                f"{declared.output_specs[0].kind}.",
                remedy=f"A model is judged by its first output: numbers, classes or quantiles, such as by {known[0]}.",
            )
    for spec in declared.output_specs if isinstance(model, FunctionModel) else ():
        if spec.kind == "classes" and spec.top != 0 and not spec.classes:
            raise SettingsError(
                f"{owner} has the classes {spec.name!r} without labels, and its model is a function.",
                remedy="Name them in the order of the probabilities that it returns, or declare probabilities=0.",
            )
    if isinstance(model, SqlModel):
        given = model.expression if isinstance(model.expression, Mapping) else dict.fromkeys(outputs[:1])
        other = set(given) ^ set(outputs)
        if other:
            name = min(other)
            what = f"no expression for its output {name!r}" if name in outputs else f"an expression for {name!r}"
            raise SettingsError(f"{owner} has {what} in its `SqlModel`.", remedy=listed)
        for output in declared.output_specs:
            if output.kind != "number":
                raise SettingsError(
                    f"{owner} has the output {output.name!r} of {output.kind}, and an SQL expression returns a number.",
                    remedy="Declare it as `Output`, or let a function return it: `FunctionModel`.",
                )
        for text in model.expressions_of(outputs):
            check_expression(f"{owner}, in its `SqlModel`,", text, declared.feature_names)
