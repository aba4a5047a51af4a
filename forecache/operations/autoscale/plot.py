"""Plot of a day: requests, replicas of both, and requests that the model did not answer in time."""

from pathlib import Path

import numpy as np

from forecache.operations.autoscale.compare import Comparison

_BINS = 288
_DEMAND, _POLICY, _FIXED, _MISSED = "#4c72b0", "#dd8452", "#8c8c8c", "#c44e52"


def plot(found: Comparison, file: Path) -> None:
    """Plot requests, replicas, and requests missed by the model; a PNG or SVG, by the ending of the file's name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    demand, replicas, missed = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 2))
    seconds = len(found.demand.rates)
    unit_s, unit = (3600, "hour") if seconds > 3 * 3600 else (60, "minute")
    at = np.arange(seconds) / unit_s
    demand.plot(at, found.demand.rates, color=_DEMAND, linewidth=1)
    demand.set_ylabel("requests/s")
    demand.set_title(found.demand.source, fontsize=10, loc="left")
    for outcome, colour in ((found.fixed, _FIXED), (found.policy, _POLICY)):
        label = f"{outcome.policy}: {outcome.replica_hours:,.1f} replica-hours"
        replicas.plot(at, outcome.replicas, color=colour, linewidth=1.3, label=label)
    replicas.set_ylabel("ready replicas")
    width = max(1, seconds // _BINS)
    whole = seconds // width * width
    for outcome, colour in ((found.fixed, _FIXED), (found.policy, _MISSED)):
        late, requests = (each[:whole].reshape(-1, width).sum(axis=1) for each in (outcome.late, outcome.requests))
        label = f"{outcome.policy}: {outcome.late_share:.3%} of the day"
        share = 100 * late / np.maximum(requests, 1e-9)
        missed.plot(at[:whole:width], share, color=colour, linewidth=1.3, label=label)
    missed.axhline(
        100 * (1 - found.slo), color="black", linestyle=":", linewidth=1, label=f"objective: {1 - found.slo:.2%}"
    )
    missed.set_ylabel("not by the model\nin time [%]")
    missed.set_xlabel(unit)
    missed.set_xlim(0, seconds / unit_s)
    for axes in (demand, replicas, missed):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (replicas, missed):
        axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.1)
    figure.savefig(file, dpi=130)
