"""Calibration by the A/A step (slow answers, quantiles of scores), and the reported figures of a step."""

from dataclasses import replace

import numpy as np

from forecache.operations.rollout.seen import Seen
from forecache.realtime.rollout.state import RolloutState

_EDGES = np.arange(1, 10) / 10
_SLOW_SHARE, _OF_DEADLINE = 0.95, 0.25


def calibrated(state: RolloutState, seen: Seen) -> RolloutState:
    """The state with the limit of slow answers and deciles of scores, once the A/A step has half of its requests."""
    if state.stage != "aa" or state.edges or len(seen.kept_us) < max(1, state.plan["requests"] // 2):
        return state
    slow_ms = state.plan["guards"]["slow_ms"]
    usual = float(np.quantile(seen.kept_us, _SLOW_SHARE))
    slow_us = slow_ms * 1e3 if slow_ms is not None else max(usual, _OF_DEADLINE * 1e3 * state.plan["deadline_ms"])
    scores = seen.kept_scores
    edges = tuple(float(edge) for edge in np.quantile(scores, _EDGES)) if len(scores) else ()
    return replace(state, slow_us=slow_us, edges=edges)


def figures(seen: Seen) -> dict[str, float]:
    """Figures of a step that are reported besides its guards."""
    shown: dict[str, float] = {}
    for arm, name in enumerate(("current", "candidate")):
        count, total_us, model_us = seen.times[arm]
        if count:
            shown |= {f"{name}_total_ms": total_us / count / 1e3, f"{name}_model_ms": model_us / count / 1e3}
    count, same, apart, largest = seen.agree
    if count:
        shown |= {"compared_requests": count, "same_first_share": same / count}
        shown |= {"mean_score_difference": apart / count, "largest_score_difference": largest}
    for why, counts in sorted(seen.whys.items()):
        shown |= {f"{name}_without_model_{why}": counts[arm] for arm, name in enumerate(("current", "candidate"))}
    shown["keys"] = float(len(seen.buckets))
    if seen.newest:
        shown["newest_request_at"] = seen.newest / 1e6
    return {name: float(round(value, 6)) for name, value in shown.items()}
