"""Check that the outputs and the gate of a declaration fit the task of its model."""

from collections.abc import Sequence

from forecache.base.errors import SettingsError
from forecache.declare.checks.fields import check_value
from forecache.declare.models.gate import METRICS, Gate, rank_cutoff
from forecache.declare.models.model import EstimatorModel, TorchModel
from forecache.declare.models.output import AnyOutput, Classes, Output, Quantiles, Segment, Vector
from forecache.declare.trainable import Trainable


def check_outputs(owner: str, outputs: Sequence[AnyOutput], segments: Sequence[Segment]) -> None:
    """Refuse a declaration without outputs, and segments of no output that is a number.

    Raises:
        SettingsError: With the segment.
    """
    check_value(owner, "outputs", outputs, bool(outputs), "Declare one or more.")
    numbers = [column for output in outputs for column in output.spec.numbers]
    for segment in segments:
        if segment.of not in numbers or len(segment.labels) != len(segment.bounds) + 1:
            of = f"`of` is {' or '.join(map(repr, numbers))}" if numbers else "Declare an output that is a number"
            raise SettingsError(
                f"{owner} has the segment {segment.name!r} of {segment.of!r} with {len(segment.bounds)} bounds and "
                f"{len(segment.labels)} labels.",
                remedy=f"{of}; there is one label more than bounds.",
            )


def check_training_outputs(owner: str, declared: Trainable) -> None:
    """Refuse outputs that the model cannot be trained for.

    Raises:
        SettingsError: With the output, and the outputs that would fit.
    """
    main, others, kind = declared.main_output, declared.outputs[1:], declared.trained_label.kind
    wanted = {"multiclass": (Classes,), "regression": (Output, Quantiles)}.get(kind, (Output,))
    if not isinstance(main, wanted):
        raise SettingsError(
            f"{owner} has a {kind} label and the first output {main.name!r}, which is of {type(main).__name__}.",
            remedy=f"The first is what is learned of the label: {' or '.join(each.__name__ for each in wanted)}.",
        )
    if kind == "ranking" and not declared.group_column:
        raise SettingsError(
            f"{owner} has a ranking as its label, which compares the candidates of a request.",
            remedy="Declare a `Realtime` model with `candidates`, or a `Recommender`.",
        )
    if kind == "ranking" and isinstance(declared.model, TorchModel) and not (declared.model.loss or declared.model.fit):
        raise SettingsError(
            f"{owner} learns a ranking by a network, and has no loss for it.",
            remedy="Declare a loss of each candidate, `TorchModel(loss=...)`, a training of your own, `fit=...`, or a "
            "ranker: EstimatorModel.",
        )
    if others and isinstance(declared.model, EstimatorModel):
        raise SettingsError(
            f"{owner} has the output {others[0].name!r} beside {main.name!r}, and its model is an estimator.",
            remedy="An estimator returns the first output only: remove the others, or train a torch network.",
        )
    for output in others:
        if not isinstance(output, (Output, Vector)):
            raise SettingsError(
                f"{owner} has the output {output.name!r} of {type(output).__name__}, which no network is trained for.",
                remedy="Beside the first output, a network returns numbers and vectors: Output and Vector.",
            )
    if kind != "regression" and isinstance(declared.model, TorchModel):
        rule = f"log1p is for a regression; a {kind} label takes 'identity'."
        check_value(owner, "model.target", declared.model.target, declared.model.target == "identity", rule)


def check_gate(owner: str, declared: Trainable) -> None:
    """Refuse a gate whose metrics, baselines or slices do not fit the task and features.

    Raises:
        SettingsError: With the metric, the baseline or the feature.
    """
    gate, task = declared.trained_gate, declared.task
    features = declared.feature_names
    if task == "ranking":
        _check_ranking_gate(owner, gate)
    if task in ("multiclass", "quantiles"):
        what = "are the class shares" if task == "multiclass" else "are the quantiles of the label"
        rule = f"The baseline of {task} {what} in the training split: leave it out."
        check_value(owner, "gate.baseline", gate.baseline, not gate.baselines, rule)
        check_value(owner, "gate.max_ece", gate.max_ece, gate.max_ece is None or task == "multiclass",
                    "Quantiles are judged by coverage_error.")  # fmt: skip
    elif not gate.baselines and task != "ranking":
        raise SettingsError(
            f"{owner} has a {task} label and no baseline in its gate.",
            remedy="Declare the feature that a model has to beat: Gate(baseline=Baseline(...)).",
        )
    numeric = {feature.name for feature in declared.feature_columns if feature.is_numeric}
    for baseline in gate.baselines:
        if baseline.feature not in features:
            raise SettingsError(
                f"{owner} has the baseline feature {baseline.feature!r}, which it does not compute.",
                remedy=f"Its features are {', '.join(features)}.",
            )
        rule, fits = "It scores by itself, so it is a number or an integer.", baseline.feature in numeric
        check_value(f"{owner}, in its gate,", "baseline.feature", baseline.feature, fits, rule)
    own = tuple(metric.name for metric in gate.metrics)
    known = (*METRICS[task], *own)
    taken = set(own) & set(METRICS[task])
    if taken:
        raise SettingsError(
            f"{owner} has a metric of its own called {min(taken)!r}, as one of Forecache's is.",
            remedy="Call it something else.",
        )
    for name in (gate.metric, *gate.floors):
        if name not in known and (task != "ranking" or rank_cutoff(name) is None):
            raise SettingsError(
                f"{owner} judges a {task} label by {name!r} in its gate, which is no metric of it.",
                remedy=f"Those are {', '.join(known)}.",
            )
    check_feature_names(f"{owner} slices its gate by", gate.slices, features)


def check_feature_names(use: str, names: Sequence[str], features: Sequence[str], where: str = "") -> None:
    """Refuse names that are no features."""
    for name in names:
        if name not in features:
            raise SettingsError(
                f"{use} {name!r}{where}, which is not a feature.", remedy=f"Its features are {', '.join(features)}."
            )


def _check_ranking_gate(owner: str, gate: Gate) -> None:
    """Refuse limits that mean nothing for a ranking, in which only the order of scores counts."""
    for name in ("max_ece", "max_prediction_psi"):
        rule = "Scores of a ranking say nothing but an order: leave it out."
        check_value(owner, f"gate.{name}", getattr(gate, name), getattr(gate, name) is None, rule)
