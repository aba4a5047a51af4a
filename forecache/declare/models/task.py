"""The task of a pipeline, by its label and main output, and the checks that outputs and gate fit it."""

from typing import TYPE_CHECKING, Literal

from forecache.base.errors import SettingsError
from forecache.declare.checks.fields import check_value
from forecache.declare.models.applied import RegisteredModel
from forecache.declare.models.gate import METRICS, Gate, rank_cutoff
from forecache.declare.models.model import EstimatorModel, TorchModel
from forecache.declare.models.output import Classes, Output, Quantiles, Vector

if TYPE_CHECKING:
    from forecache.declare.declaration import Pipeline

Task = Literal["binary", "regression", "multiclass", "quantiles", "ranking"]


def task_of(pipeline: "Pipeline") -> Task:
    """The label's kind, or "quantiles" if quantiles of a regression's label are learned.

    For a registered model with floors, the kind of label that has their metrics.
    """
    if isinstance(pipeline.main_output, Quantiles):
        return "quantiles"
    if isinstance(pipeline.model, RegisteredModel) and pipeline.model.floors:
        kind = pipeline.model.kind
        return "multiclass" if isinstance(pipeline.main_output, Classes) else kind
    return pipeline.trained_label.kind


def check_outputs(owner: str, pipeline: "Pipeline") -> None:
    """Refuse a pipeline without outputs, and segments of no output that is a number.

    Raises:
        SettingsError: With the segment.
    """
    check_value(owner, "outputs", pipeline.outputs, bool(pipeline.outputs), "Declare one or more.")
    for segment in pipeline.segments:
        numbers = [column for output in pipeline.output_specs for column in output.numbers]
        if segment.of not in numbers or len(segment.labels) != len(segment.bounds) + 1:
            of = f"`of` is {' or '.join(map(repr, numbers))}" if numbers else "Declare an output that is a number"
            raise SettingsError(
                f"{owner} has the segment {segment.name!r} of {segment.of!r} with {len(segment.bounds)} bounds and "
                f"{len(segment.labels)} labels.",
                remedy=f"{of}; there is one label more than bounds.",
            )


def check_training_outputs(owner: str, pipeline: "Pipeline") -> None:
    """Refuse outputs that the model cannot be trained for.

    Raises:
        SettingsError: With the output, and the outputs that would fit.
    """
    main, others, kind = pipeline.main_output, pipeline.outputs[1:], pipeline.trained_label.kind
    wanted = {"multiclass": (Classes,), "regression": (Output, Quantiles)}.get(kind, (Output,))
    if not isinstance(main, wanted):
        raise SettingsError(
            f"{owner} has a {kind} label and the first output {main.name!r}, which is of {type(main).__name__}.",
            remedy=f"The first is what is learned of the label: {' or '.join(each.__name__ for each in wanted)}.",
        )
    if kind == "ranking" and not pipeline.is_of_requests:
        raise SettingsError(
            f"{owner} has a ranking as its label, which compares the candidates of a request.",
            remedy="Declare a `Realtime` model with `candidates`, or a `Recommender`.",
        )
    if kind == "ranking" and isinstance(pipeline.model, TorchModel) and not (pipeline.model.loss or pipeline.model.fit):
        raise SettingsError(
            f"{owner} learns a ranking by a network, and has no loss for it.",
            remedy="Declare a loss of each candidate, `TorchModel(loss=...)`, a training of your own, `fit=...`, or a "
            "ranker: EstimatorModel.",
        )
    if others and isinstance(pipeline.model, EstimatorModel):
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
    if kind != "regression" and isinstance(pipeline.model, TorchModel):
        rule = f"log1p is for a regression; a {kind} label takes 'identity'."
        check_value(owner, "model.target", pipeline.model.target, pipeline.model.target == "identity", rule)


def check_gate(owner: str, pipeline: "Pipeline") -> None:
    """Refuse a gate whose metrics, baselines or slices do not fit the pipeline's task and features.

    Raises:
        SettingsError: With the metric, the baseline or the feature.
    """
    gate, task = pipeline.trained_gate, task_of(pipeline)
    features = pipeline.feature_names
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
    numeric = {feature.name for feature in pipeline.feature_columns if feature.is_numeric}
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
    ignored = pipeline.retraining.ignore if pipeline.retraining else ()
    for about, columns in (("slices its gate by", gate.slices), ("ignores", ignored)):
        for column in columns:
            if column not in features:
                where = " in its retraining" if about == "ignores" else ""
                raise SettingsError(
                    f"{owner} {about} {column!r}{where}, which is not a feature.",
                    remedy=f"Its features are {', '.join(features)}.",
                )


def _check_ranking_gate(owner: str, gate: Gate) -> None:
    """Refuse limits that mean nothing for a ranking, in which only the order of scores counts."""
    for name in ("max_ece", "max_prediction_psi"):
        rule = "Scores of a ranking say nothing but an order: leave it out."
        check_value(owner, f"gate.{name}", getattr(gate, name), getattr(gate, name) is None, rule)
