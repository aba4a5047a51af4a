"""The plots of an evaluation as SVG, in the page's light and dark colours or, as standalone files, in light colours."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from forecache.base.reports import (
    ACCENT,
    INK,
    MUTED,
    SECOND,
    SOFT,
    apply_colours,
    draw_svg,
    render_svg,
)
from forecache.declare import Trainable
from forecache.models.registry.gate.gate_checks import Check
from forecache.models.registry.gate.metric_judge import single_values
from forecache.models.registry.gate.score_metrics import Array

_MOST_DAYS = 12


def draw_evaluation(evaluation: dict[str, Any], *, standalone: bool = False) -> dict[str, str]:
    """Every plot that the evaluation has data for, by name, as an SVG document; `standalone` with fixed colours instead
    of CSS variables, so that the file can be shown by itself."""
    if "importance" not in evaluation or not _can_draw():  # registered while this plug-in was not there
        return {}
    return {name: apply_colours(svg, standalone=standalone) for name, svg in _draw_all(json.dumps(evaluation)).items()}


def _can_draw() -> bool:
    """True if matplotlib is installed; the extra `local` does without it, and reports then have no plots."""
    return find_spec("matplotlib") is not None


# A run needs the plots of a model three times: for its MLflow run, its asset and its report.
@functools.lru_cache(maxsize=2)
def _draw_all(evaluation_json: str) -> Mapping[str, str]:
    evaluation = json.loads(evaluation_json)
    plots: dict[str, Callable[[Any, dict[str, Any]], None]] = {
        "label_mean": _label_mean,
        "roc": _roc,
        "precision_recall": _precision_recall,
        "gain": _gain,
        "lift": _lift,
        "places": _places,
        "calibration": _calibration,
        "scores": _scores,
        "residuals": _residuals,
        "importance": _importance,
        "loss": _loss,
    }
    there = {name: bool(evaluation.get(name)) for name in plots} | {"loss": bool(evaluation["history"])}
    names = [name for name in plots if there[name]]
    heights = {"importance": 0.24 * len(evaluation["importance"]) + 0.9}
    heights |= {"scores": 0.3 * len(evaluation["classes"]) + 0.9} if evaluation.get("classes") else {}
    return {name: draw_svg(name, plots[name], evaluation, heights.get(name)) for name in names}


def _label_mean(axes: Any, evaluation: dict[str, Any]) -> None:
    rows = evaluation["label_mean"]
    colours = {"train": SOFT, "validation": SECOND, "test": ACCENT}
    days = sorted({row["as_of"] for row in rows})
    for split, colour in colours.items():
        chosen = [row for row in rows if row["split"] == split]
        axes.bar(
            [days.index(row["as_of"]) for row in chosen],
            [row["mean"] for row in chosen],
            0.6,
            color=colour,
            label=split,
        )
    every = -(-len(days) // _MOST_DAYS)
    shown = range(0, len(days), every)
    many = {"rotation": 30, "ha": "right"} if len(days) > 4 else {"rotation": 0, "ha": "center"}
    axes.set_xticks(shown, [days[i] for i in shown], **many)
    axes.set_ylabel("label rate" if evaluation["kind"] == "binary" else "mean label")
    axes.grid(visible=False, axis="x")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def _roc(axes: Any, evaluation: dict[str, Any]) -> None:
    for name, (colour, label) in _named(evaluation).items():
        curve = evaluation["roc"][name]
        area = evaluation["metrics" if name == "model" else "baseline"]["test"]["roc_auc"]
        axes.plot(
            curve["false_positive_rate"], curve["true_positive_rate"], color=colour, label=f"{label}, area {area:.3f}"
        )
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="lower right")


def _precision_recall(axes: Any, evaluation: dict[str, Any]) -> None:
    for name, (colour, label) in _named(evaluation).items():
        curve = evaluation["precision_recall"][name]
        axes.plot(curve["recall"], curve["precision"], color=colour, label=label, drawstyle="steps-pre")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.01))
    _add_legend(axes)


def _gain(axes: Any, evaluation: dict[str, Any]) -> None:
    for name, (colour, label) in {"best": (SOFT, "best order"), **_named(evaluation)}.items():
        curve = evaluation["gain"][name]
        axes.plot(np.linspace(0, 1, len(curve)), curve, color=colour, label=label)
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (3, 3)))
    what = "positive rows" if evaluation["kind"] == "binary" else "the label's sum"
    axes.set(xlabel="share of the rows, highest predictions first", ylabel=f"share of {what}")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="lower right")


def _lift(axes: Any, evaluation: dict[str, Any]) -> None:
    lifts = [row["lift"] for row in evaluation["lift"]]
    axes.bar(range(1, len(lifts) + 1), lifts, 0.6, color=ACCENT)
    axes.axhline(1, color=SOFT, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set(xlabel="tenth of the rows, highest predictions first", ylabel="mean label over that of all")
    axes.set_xticks(range(1, len(lifts) + 1))
    axes.grid(visible=False, axis="x")


def _residuals(axes: Any, evaluation: dict[str, Any]) -> None:
    data = evaluation["residuals"]
    shares = [count / data["rows"] for count in data["counts"]]
    axes.stairs(shares, data["edges"], color=ACCENT, fill=True, alpha=0.35)
    axes.stairs(shares, data["edges"], color=ACCENT, linewidth=1.2)
    for name, colour in (("mean", SECOND), ("median", MUTED)):
        axes.axvline(data[name], color=colour, linewidth=1.2, label=f"{name} {data[name]:.4g}")
    axes.set(xlabel="prediction minus label", ylabel="share of the rows")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _add_legend(axes)


def _named(evaluation: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Colour and name of the model and the baseline."""
    return {"model": (ACCENT, "model"), "baseline": (SECOND, f"{evaluation['baseline_feature']} alone")}


def _places(axes: Any, evaluation: dict[str, Any]) -> None:
    styles = iter([(SECOND, "-"), (MUTED, "-"), (SECOND, "--"), (MUTED, "--"), (SOFT, "--"), (SOFT, ":")])
    for name, values in evaluation["places"].items():
        colour, line = (ACCENT, "-") if name == "model" else next(styles, (SOFT, ":"))
        axes.plot(range(1, len(values) + 1), values, color=colour, linestyle=line, label=name)
    axes.set(xlabel="first places", ylabel="nDCG of them", ylim=(0, 1.01))
    axes.xaxis.get_major_locator().set_params(integer=True)
    _add_legend(axes)


def _calibration(axes: Any, evaluation: dict[str, Any]) -> None:
    bins = evaluation["calibration"]
    scores, labels = [row["score"] for row in bins], [row["label"] for row in bins]
    shares = evaluation["kind"] != "regression"
    low, high = (0.0, 1.0) if shares else (min(0.0, *scores, *labels), 1.05 * max(*scores, *labels))
    axes.plot([low, high], [low, high], color=SOFT, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.plot(scores, labels, color=ACCENT, marker="o", markersize=4)
    axes.set(xlim=(low, high), ylim=(low, high))
    if evaluation["kind"] == "quantiles":
        axes.set(xlabel="level of the quantile", ylabel="share of labels up to it")
        return
    axes.set_xlabel("mean predicted" + (" probability" if shares else " value") + ", ten groups of equal size")
    axes.set_ylabel("observed rate" if shares else "observed mean")


def _scores(axes: Any, evaluation: dict[str, Any]) -> None:
    data = evaluation["scores"]
    if evaluation["kind"] == "multiclass":
        _class_shares(axes, data)
        return
    by_class = evaluation["kind"] in ("binary", "ranking")
    first, second = ("negative", "positive") if by_class else ("label", "prediction")
    edges = data["edges"]
    counts = {name: data[name] for name in (first, second)}
    rows = [sum(values) for values in counts.values()]
    _draw_shares(
        axes, edges, counts, rows, "predicted" + (" probability" if evaluation["kind"] == "binary" else " value")
    )


def _draw_shares(
    axes: Any, edges: Sequence[float], counts: Mapping[str, Sequence[int]], rows: Sequence[int], xlabel: str
) -> None:
    """Draw histograms as shares of all rows, of which some may lie beyond the edges."""
    for (name, values), total, colour in zip(counts.items(), rows, (SOFT, ACCENT), strict=True):
        shares = [count / max(1, total) for count in values]
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.35)
        axes.stairs(shares, edges, color=colour, label=name, linewidth=1.2)
    axes.set(xlabel=xlabel, ylabel="share of each", xlim=(edges[0], edges[-1]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _add_legend(axes)


def _add_legend(axes: Any) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=2)


def _class_shares(axes: Any, data: dict[str, Any]) -> None:
    for offset, name, colour in ((0.2, "label", SOFT), (-0.2, "prediction", ACCENT)):
        rows = data[name][::-1]
        places = [place + offset for place in range(len(rows))]
        axes.barh(places, [count / max(1, sum(rows)) for count in rows], 0.38, color=colour, label=name)
    axes.set_yticks(range(len(data["classes"])), data["classes"][::-1])
    axes.set_xlabel("share of the rows")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _add_legend(axes)


def _importance(axes: Any, evaluation: dict[str, Any]) -> None:
    rows = evaluation["importance"][::-1]
    losses = [row["loss"] for row in rows]
    colours = [SECOND if (row.get("direction") or 0) < 0 else ACCENT for row in rows]
    names = [
        f"{row['feature']} {row['direction']:+.2f}" if row.get("direction") is not None else row["feature"]
        for row in rows
    ]
    axes.barh(names, losses, 0.6, color=colours, xerr=[row["std"] for row in rows], ecolor=MUTED, error_kw={"lw": 0.8})
    axes.set_xlabel(f"loss of {evaluation['metric']} when the feature is shuffled")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _loss(axes: Any, evaluation: dict[str, Any]) -> None:
    history = evaluation["history"]
    epochs = [row["epoch"] + 1 for row in history]
    axes.plot(epochs, [row["train_loss"] for row in history], color=SOFT, label="training")
    axes.plot(epochs, [row["validation_loss"] for row in history], color=ACCENT, label="validation")
    best = min(history, key=lambda row: row["validation_loss"])
    axes.plot([best["epoch"] + 1], [best["validation_loss"]], color=ACCENT, marker="o", markersize=5)
    axes.set(xlabel=evaluation.get("unit", "epoch"), ylabel="loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper right")


_BINS = 40


def draw_verdict(pipeline: Trainable, checks: Sequence[Check], scores: Array, champion: Array | None) -> dict[str, str]:
    """The plots "gains" and, if there is a champion and the predictions are numbers, "shift", each as a standalone SVG
    document; none without matplotlib."""
    if not _can_draw():
        return {}
    compared = [check for check in checks if check.low is not None]
    plots = {}
    if compared:
        height = 0.3 * len(compared) + 0.9
        plots["gains"] = render_svg(
            "gains", _plot_gains, (pipeline.trained_gate.metric, compared), standalone=True, height=height
        )
    if champion is not None and pipeline.task not in ("multiclass", "ranking"):
        both = single_values(pipeline, scores), single_values(pipeline, champion)
        plots["shift"] = render_svg("shift", _plot_shift, both, standalone=True)
    return plots


def _plot_gains(axes: Any, data: tuple[str, list[Check]]) -> None:
    metric, checks = data
    for place, check in enumerate(reversed(checks)):
        assert check.value is not None
        assert check.low is not None
        assert check.high is not None
        colour = ACCENT if check.passed else SECOND
        axes.plot([check.low, check.high], [place, place], color=colour)
        axes.plot([check.value], [place], color=colour, marker="o", markersize=5)
        if check.limit is not None:
            axes.plot([check.limit], [place], color=MUTED, marker="|", markersize=12)
    axes.axvline(0, color=SOFT, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_yticks(range(len(checks)), [check.name.removeprefix("slice:") for check in reversed(checks)])
    axes.set_xlabel(f"gain in {metric}, 95 % interval; the bar is the limit")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=INK)


def _plot_shift(axes: Any, data: tuple[Array, Array]) -> None:
    scores, champion = data
    both = np.concatenate(data)
    low, high = float(both.min()), float(np.quantile(both, 0.995))
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    counts = {
        "champion": np.histogram(champion, edges)[0].tolist(),
        "candidate": np.histogram(scores, edges)[0].tolist(),
    }
    _draw_shares(axes, edges.tolist(), counts, (len(champion), len(scores)), "prediction on the same rows")
