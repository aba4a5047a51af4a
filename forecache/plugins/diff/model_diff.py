"""The champions of two environments: which they are, their gate, and the metrics of both on the same rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.models.registry.gate.common_rows import OwnTestRows, find_common_rows
from forecache.models.registry.gate.metric_judge import judge_of
from forecache.models.registry.model_versions import ModelVersion, find_champion, list_models


@dataclass(frozen=True)
class ModelDiff:
    """The champions of both sides.

    Attributes:
        before, after: Their version, gate and MLflow run; None without one.
        metrics: By name, of the champion before and after, on the rows that the test splits of both have in common.
        rows: Number of these rows.
        less_is_better: Metrics of which less is better.
        missing: The reason why there are no metrics on the same rows; "": there are some, or the models are the same.
        failed_gate: A sentence on a version that is only in the second environment and failed its gate; "": none.
    """

    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    differ: bool
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rows: int = 0
    less_is_better: tuple[str, ...] = ()
    decided_by: str = ""
    missing: str = ""
    failed_gate: str = ""


def compare_models(before: Settings, after: Settings, pipeline: Trainable) -> ModelDiff:
    """Compare the champions of a pipeline or real-time model, by its declaration in the working tree."""
    old, new = find_champion(before, pipeline), find_champion(after, pipeline)
    made = ModelDiff(_describe(old), _describe(new), True, failed_gate=_failed_gate(before, after, pipeline))
    if old is None or new is None or (old.run_id, old.weights) == (new.run_id, new.weights):
        return replace(made, differ=(old is None) != (new is None))
    try:
        metrics, rows = _measure_both(before, after, pipeline, old, new)
    except ForecacheError as error:
        return replace(made, missing=str(error))
    judge = judge_of(pipeline)
    return replace(
        made, metrics=metrics, rows=rows, less_is_better=tuple(sorted(judge.less_is_better)),
        decided_by=pipeline.trained_gate.metric,
        missing="" if metrics else "the test splits of both have no row of the same key and as-of date",
    )  # fmt: skip


def _describe(version: ModelVersion | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {"version": version.version, "gate": version.gate, "run_id": version.run_id, "weights": version.weights}


def _failed_gate(before: Settings, after: Settings, pipeline: Trainable) -> str:
    """A sentence on the newest version of the second environment that is not in the first, if its gate refused it."""
    known = {(each.version, each.run_id) for each in list_models(before, pipeline)}
    own = [each for each in list_models(after, pipeline) if (each.version, each.run_id) not in known]
    newest = max(own, key=lambda each: each.version, default=None)
    if newest is None or newest.gate != "failed":
        return ""
    reason = newest.tags.get("gate_reason", "")
    return f"Model {pipeline.name} {newest.version} failed the gate" + (f": {reason}" if reason else "")


def _measure_both(
    before: Settings, after: Settings, pipeline: Trainable, old: ModelVersion, new: ModelVersion
) -> tuple[dict[str, tuple[float, float]], int]:
    """The metrics of both models on the rows that their test splits have in common, and the number of these.

    Each model gets the features of its own training table; the labels are those of the newer one. Of a real-time model
    only the requests count of which both have the same rows.
    """
    chosen = find_common_rows(OwnTestRows.read(before, pipeline, old), OwnTestRows.read(after, pipeline, new))
    examples = chosen.after.examples
    if not chosen.num_rows:
        return {}, 0
    judge = judge_of(pipeline, examples.sizes)
    ours, theirs = (
        judge.measure(examples.label, side.scores(examples.classes), examples.weight)
        for side in (chosen.before, chosen.after)
    )
    return {name: (ours[name], value) for name, value in theirs.items()}, chosen.num_rows
