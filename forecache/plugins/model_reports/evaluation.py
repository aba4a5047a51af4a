"""Evaluation of a candidate as plain numbers: curves, distributions, feature importance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecache.base.ranking import mark_changes, mean_of_requests, ndcg_at, weight_of_requests
from forecache.declare import Pipeline, Trainable
from forecache.models.registry.gate.examples import CandidateModel, SplitExamples, score_features
from forecache.models.registry.gate.metric_judge import judge_of, single_values
from forecache.models.registry.gate.score_metrics import Array, coverage, spearman
from forecache.models.registry.register import ScoredSplit
from forecache.plugins.model_reports.curves import (
    best_threshold,
    confusion,
    cumulative_gain,
    lift_by_tenth,
    precision_recall_curve,
    residual_counts,
)

_CURVE_POINTS = 201
_CALIBRATION_BINS = 10
_HISTOGRAM_BINS = 40
_IMPORTANCE_ROWS = 10_000
_MOST_PLACES = 20
_IMPORTANCE_REPEATS = 3


def evaluate(
    pipeline: Trainable, model: CandidateModel, splits: Mapping[str, SplitExamples], scored: Mapping[str, ScoredSplit]
) -> dict[str, Any]:
    """Evaluate a model on the test split in more depth; the values are JSON-serialisable.

    Returns:
        `label_mean` by split and as-of date, except for classes; for the test split `roc` (binary), `calibration` (for
        classes each against all others, and `calibration_by_class`; for quantiles the share of labels up to each),
        `scores` (histogram, for classes their counts), `importance` (loss of the gate's metric when a feature is
        shuffled, and its rank correlation with the score). For a binary label and a regression `gain` and `lift`, with
        `precision_recall` and `decisions` of the one, and `residuals` of the other. With several baselines, the figures
        are those of the best on the test split. A ranking has no calibration, but `places`: nDCG by the number of
        places, of the model and each baseline.
    """
    task, test, (scores, baselines) = pipeline.task, splits["test"], scored["test"]
    result: dict[str, Any] = {
        "label_mean": [row for name in splits for row in label_means(name, splits[name]) if task != "multiclass"],
        "calibration": task_calibration(pipeline, test, scores) if task != "ranking" else [],
        "scores": distribution(task, test.label, single_values(pipeline, scores), test.classes),
        "importance": importance(pipeline, model, test, seed=pipeline.training.seed),
    }
    if task == "multiclass":
        result["calibration_by_class"] = {
            name: calibration((test.label == i).astype(np.float64), scores[:, i]) for i, name in enumerate(test.classes)
        }
    both = {"model": scores, "baseline": baselines[0].score}
    if task in ("binary", "regression"):
        curves = {name: cumulative_gain(test.label, values) for name, values in {**both, "best": test.label}.items()}
        result |= {"gain": curves if curves["model"] else {}, "lift": lift_by_tenth(test.label, scores)}
    if task == "regression":
        result["residuals"] = residual_counts(test.label, scores)
    if task == "binary":
        result["roc"] = {name: roc_curve(test.label, values) for name, values in both.items()}
        found = {name: precision_recall_curve(test.label, values) for name, values in both.items()}
        result["precision_recall"] = found if found["model"] else {}
        held_out = splits["validation"].label, scored["validation"].scores
        result["decisions"] = decisions(pipeline, test.label, scores, best=best_threshold(*held_out))
    if task == "ranking":
        ranked = {"model": scores, **{each.name: each.score for each in baselines}}
        result["places"] = {name: ndcg_by_places(test, values) for name, values in ranked.items()}
    return result


def decisions(pipeline: Trainable, label: Array, scores: Array, *, best: float) -> list[dict[str, Any]]:
    """The confusion at each bound of the pipeline's segments of its first output, and at the threshold with the best F1
    on the validation split; ascending."""
    segments = pipeline.segments if isinstance(pipeline, Pipeline) else ()
    why = {best: "best F1 on the validation split"}
    for segment in segments:
        if segment.of == pipeline.main_output.name:
            why |= {
                bound: f"{segment.name}: {above}"
                for bound, above in zip(segment.bounds, segment.labels[1:], strict=True)
            }
    return [{"of": why[threshold], **confusion(label, scores, threshold)} for threshold in sorted(why)]


def ndcg_by_places(examples: SplitExamples, scores: Array) -> list[float]:
    assert examples.sizes is not None
    sizes, weight = examples.sizes, weight_of_requests(examples.weight, examples.sizes)
    found = ndcg_at(examples.label, scores, sizes, places=range(1, _MOST_PLACES + 1))
    return [round(mean_of_requests(values, weight), 6) for values in found]


def label_means(split: str, examples: SplitExamples) -> list[dict[str, Any]]:
    days = np.array(examples.as_of)
    return [
        {
            "split": split,
            "as_of": str(day),
            "rows": int((days == day).sum()),
            "mean": float(examples.label[days == day].mean()),
        }
        for day in sorted(set(examples.as_of))
    ]


def roc_curve(label: Array, scores: Array) -> dict[str, list[float]]:
    """False and true positive rates at up to 201 false positive rates, for a plot."""
    order = np.argsort(-scores, kind="stable")
    positives = label[order] > 0.5
    last_of_score = np.append(mark_changes(scores[order]), True)
    true = np.concatenate([[0.0], np.cumsum(positives)[last_of_score] / max(1, positives.sum())])
    false = np.concatenate([[0.0], np.cumsum(~positives)[last_of_score] / max(1, (~positives).sum())])
    grid = np.linspace(0.0, 1.0, _CURVE_POINTS) if len(false) > _CURVE_POINTS else false
    curve = np.interp(grid, false, true) if len(false) > _CURVE_POINTS else true
    return {"false_positive_rate": grid.round(5).tolist(), "true_positive_rate": curve.round(5).tolist()}


def task_calibration(pipeline: Trainable, test: SplitExamples, scores: Array) -> list[dict[str, float]]:
    """Mean prediction and mean label in bins; of quantiles the level, and the share of labels up to the quantile."""
    if pipeline.task == "quantiles":
        observed = coverage(test.label, scores, test.weight)
        pairs = zip(pipeline.output_specs[0].levels, observed, strict=True)
        return [{"score": level, "label": float(share), "rows": len(scores)} for level, share in pairs]
    if pipeline.task == "multiclass":
        true = test.label[:, None] == np.arange(scores.shape[1])
        return calibration(true.astype(np.float64).reshape(-1), scores.reshape(-1))
    return calibration(test.label, scores)


def calibration(label: Array, scores: Array) -> list[dict[str, float]]:
    groups = np.array_split(np.argsort(scores, kind="stable"), min(_CALIBRATION_BINS, len(scores)))
    return [
        {"score": float(scores[group].mean()), "label": float(label[group].mean()), "rows": len(group)}
        for group in groups
    ]


def distribution(task: str, label: Array, scores: Array, classes: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Counts in bins of equal width: for a binary label and a ranking scores by class, else predictions and labels up
    to the 99th percentile; of classes how often each is the label, and the most likely one."""
    if task == "multiclass":
        pairs = {"label": label, "prediction": scores}
        counted = {n: np.bincount(v.astype(int), minlength=len(classes)).tolist() for n, v in pairs.items()}
        return {"classes": list(classes), **counted}
    if task in ("binary", "ranking"):
        ends = (0.0, 1.0) if task == "binary" else np.quantile(scores, [0.001, 0.999])
        edges = np.linspace(ends[0], ends[1] if ends[1] > ends[0] else ends[0] + 1, _HISTOGRAM_BINS + 1)
        series = {"negative": scores[label <= 0.5], "positive": scores[label > 0.5]}
    else:
        top = float(np.quantile(np.concatenate([scores, label]), 0.99))
        bottom = float(min(scores.min(), label.min()))
        edges = np.linspace(bottom, top if top > bottom else bottom + 1, _HISTOGRAM_BINS + 1)
        series = {"label": label, "prediction": scores}
    counts = {name: np.histogram(values, edges)[0].tolist() for name, values in series.items()}
    return {"edges": edges.tolist(), **counts}


def importance(
    pipeline: Trainable, model: CandidateModel, examples: SplitExamples, *, seed: int
) -> list[dict[str, Any]]:
    """Loss of the gate's metric when a feature is shuffled (Breiman 2001), largest first.

    `direction` is the rank correlation of a feature that is a number with the score, over the rows that have it: above
    0, larger values go with larger scores. None without one.
    """
    rng = np.random.default_rng(seed)
    some = examples.select(_sample_rows(examples, rng))
    features, label, weight = some.features, some.label, some.weight
    judge = judge_of(pipeline, some.sizes)
    metric = judge.metrics[pipeline.trained_gate.metric]
    scores = score_features(model, features, examples.classes)
    reference = metric(label, scores, weight)
    numbers = [each.name for each in some.encoding.features if each.type in ("number", "integer")]
    single = single_values(pipeline, scores)
    result = []
    for name, places in some.encoding.places.items():
        losses = []
        for _ in range(_IMPORTANCE_REPEATS):
            shuffled = features.copy()
            shuffled[:, places] = shuffled[rng.permutation(len(shuffled)), places]
            value = metric(label, score_features(model, shuffled, examples.classes), weight)
            losses.append(judge.gain(pipeline.trained_gate.metric, reference, value))
        direction = None
        if name in numbers and pipeline.task != "multiclass":
            direction = _rank_correlation(some.feature_column(name).astype(np.float64), single)
        found = {"loss": float(np.mean(losses)), "std": float(np.std(losses))}
        result.append({"feature": name, **found, "direction": direction})
    return sorted(result, key=lambda row: -row["loss"])


def _rank_correlation(feature: Array, scores: Array) -> float | None:
    """Over the rows that have the feature; None if it or the scores do not vary."""
    known = ~np.isnan(feature)
    found = spearman(feature[known], scores[known]) if known.any() else float("nan")
    return found if found == found else None


def _sample_rows(examples: SplitExamples, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A random mask [n] of at most 10,000 rows; it has all rows of a request or none."""
    sizes = np.ones(len(examples.label), np.int64) if examples.sizes is None else examples.sizes
    order = rng.permutation(len(sizes))
    within = np.cumsum(sizes[order]) <= _IMPORTANCE_ROWS
    within[:1] = True
    chosen = np.zeros(len(sizes), np.bool_)
    chosen[order[within]] = True
    return np.repeat(chosen, sizes)
