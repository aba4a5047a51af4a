"""The plots of a verdict: the candidate's gains, and its distribution of scores next to the champion's."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from forecache.base.reports import ACCENT, INK, MUTED, SECOND, SOFT, render_svg
from forecache.declare import Trainable
from forecache.models.registry.gate.gate_checks import Check
from forecache.models.registry.gate.metric_judge import single_values
from forecache.models.registry.gate.score_metrics import Array

_BINS = 40


def draw_verdict(pipeline: Trainable, checks: Sequence[Check], scores: Array, champion: Array | None) -> dict[str, str]:
    """The plots "gains" and, if there is a champion and the predictions are numbers, "shift", each as a standalone SVG
    document."""
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
    for values, colour, name in ((champion, SOFT, "champion"), (scores, ACCENT, "candidate")):
        shares = np.histogram(values, edges)[0] / len(values)
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.35)
        axes.stairs(shares, edges, color=colour, label=name, linewidth=1.2)
    axes.set(xlabel="prediction on the same rows", ylabel="share of each", xlim=(edges[0], edges[-1]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=2)
