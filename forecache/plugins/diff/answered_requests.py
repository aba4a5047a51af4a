"""Logged requests of a real-time model, answered again by the current releases of two environments."""

from collections.abc import Callable
from typing import Any

import numpy as np

from forecache.base.errors import ForecacheError
from forecache.base.plugins import is_installed, load_hook
from forecache.base.settings import Settings
from forecache.kit.delta.tables import table_exists
from forecache.realtime.log.read import read_newest
from forecache.realtime.log.record import table_of

REQUESTS = 1_000
_MOST_SHOWN = 5


def compare_requests(before: Settings, after: Settings, name: str) -> dict[str, Any] | None:
    """Answer the newest logged requests with the release and the published versions of each side, without a deadline.

    None if nothing of the model was logged. Returns JSON values: `sentence`, `requests`, `same` (to the bit), `scores`
    (requests with another score), `orders` (with another order of candidates), `refused_before`, `refused_after`,
    `largest_change` and `examples`.
    """
    if not is_installed("explain") or not table_exists(before, table_of(name)):
        return None
    logged = read_newest(before, name, rows=REQUESTS, columns=["request_id", "request"])
    open_release = load_hook("explain", "open_current_release")
    try:
        with open_release(before, name) as ours, open_release(after, name) as theirs:
            return _compare(name, logged, ours, theirs)
    except ForecacheError as error:
        return {"sentence": f"Logged requests of {name} were not answered again: {error}", "requests": 0}


def _compare(
    name: str, logged: list[dict[str, Any]], ours: Callable[[bytes], Any], theirs: Callable[[bytes], Any]
) -> dict[str, Any]:
    counts = {"same": 0, "scores": 0, "orders": 0, "refused_before": 0, "refused_after": 0}
    largest = 0.0
    examples: list[dict[str, Any]] = []
    for record in logged:
        old, new = ours(record["request"]), theirs(record["request"])
        refused = [isinstance(each, str) for each in (old, new)]
        counts["refused_before"] += refused[0]
        counts["refused_after"] += refused[1]
        if any(refused):
            counts["same"] += all(refused)
            continue
        other_scores, change = _differ(old.scores, new.scores)
        other_order = not np.array_equal(old.order, new.order)
        counts["scores"] += other_scores
        counts["orders"] += other_order
        counts["same"] += not (other_scores or other_order)
        largest = max(largest, change)
        if (other_scores or other_order) and len(examples) < _MOST_SHOWN:
            examples.append({"request_id": record["request_id"], "before": _first(old), "after": _first(new)})
    sentence = (
        f"Of {len(logged):,} logged requests of {name}, answered by both releases: {counts['scores']:,} have other "
        f"scores (by at most {largest:.5g}), {counts['orders']:,} another order, "
        f"{counts['same']:,} are equal to the bit."
    )
    return {"sentence": sentence, "requests": len(logged), **counts, "largest_change": largest, "examples": examples}


def _first(answer: Any) -> list[float] | None:
    """The first scores of an answer."""
    return None if answer.scores is None else [float(score) for score in answer.scores[:_MOST_SHOWN]]


def _differ(old: Any, new: Any) -> tuple[bool, float]:
    """Tell if scores differ, and by how much at most."""
    if old is None or new is None:
        return old is not new, 0.0
    if len(old) != len(new):
        return True, 0.0
    if np.array_equal(old, new, equal_nan=True):
        return False, 0.0
    changes = np.abs(np.asarray(new, np.float64) - np.asarray(old, np.float64))
    return True, float(np.nanmax(changes)) if np.isfinite(changes).any() else 0.0
