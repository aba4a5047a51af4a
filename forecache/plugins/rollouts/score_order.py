"""Disagreement of a candidate's ranking with the current release's, on requests that both score in the shadow step.

Meaningless scores may have the distribution of the current release's: only their order shows it. The value of a
request is 0 for the same order, 0.5 for an unrelated one, as of noise, and 1 for the reverse. For several
candidates it is made of Spearman's rank correlation r, as (1 - r) / 2. A single score has no order within its request:
its place among the scores of the current release is compared, by Spearman's footrule, which is as far from 0 for noise.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from forecache.plugins.rollouts.guard_values import StepRows, place_among

MOST_PAIRS = 50_000
"""Most requests of a look that are compared: they prove enough, and take some seconds."""
_OF_FOOTRULE = 1.4
"""Factor of the footrule: two independent places of ten are 0.37 apart on average, and a value is at most 1."""


class ScorePairs:
    """Requests of one look by id. An id that occurs twice, as a client may send it, is left out."""

    def __init__(self) -> None:
        self._found: tuple[dict[str, tuple[int, np.ndarray] | None], ...] = ({}, {})

    def add(self, rows: StepRows, wanted: np.ndarray) -> None:
        """Add the wanted rows that have scores of their model.

        Args:
            wanted: Mask [rows].
        """
        scores = rows.model_scores
        for place in np.flatnonzero(wanted).tolist():
            found = self._found[int(rows.arm[place])]
            request_id = str(rows.request_id[place])
            if request_id in found:
                found[request_id] = None
            elif len(scores[place]) and len(found) < 2 * MOST_PAIRS:
                found[request_id] = (int(rows.bucket[place]), scores[place])

    def match(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield the requests that both have scored: bucket, scores of the current release and of the candidate, [n]."""
        current, candidate = self._found
        num_pairs = 0
        for request_id, one in current.items():
            other = candidate.get(request_id)
            if one is None or other is None or len(one[1]) != len(other[1]):
                continue
            yield one[0], one[1], other[1]
            num_pairs += 1
            if num_pairs == MOST_PAIRS:
                return


def disorder(current: np.ndarray, candidate: np.ndarray, edges: Sequence[float]) -> float:
    """Disagreement of the order of the candidate's scores with the current release's, from 0 to 1.

    Args:
        current, candidate: Scores of one request, float64 [n].
        edges: Deciles of the scores of the current release.

    Returns:
        NaN for a single score before the deciles are known.
    """
    if len(current) == 1:
        if not edges:
            return float("nan")
        places = place_among(np.concatenate([current, candidate]), np.array(edges))
        return min(1.0, _OF_FOOTRULE * abs(float(places[0] - places[1])))
    one, other = _centred_ranks(current), _centred_ranks(candidate)
    size = float(np.sqrt((one @ one) * (other @ other)))
    if not size:  # all scores of one are equal, which agrees only with equal scores of the other
        return 0.0 if not one.any() and not other.any() else 0.5
    return float(np.clip(0.5 * (1 - (one @ other) / size), 0.0, 1.0))


def _centred_ranks(scores: np.ndarray) -> np.ndarray:
    """Ranks [n] less their mean; equal scores have the mean of their ranks."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    return ranks - (len(scores) + 1) / 2
