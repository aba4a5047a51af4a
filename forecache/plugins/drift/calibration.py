"""Calibration of a model's scores on its test split, which turns them into probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from forecache.declare import Trainable
from forecache.models.registry.gate.examples import SplitExamples
from forecache.models.registry.gate.score_metrics import Array
from forecache.models.registry.register import ScoredSplit

GROUPS = 200
LEAST_ISOTONIC_ROWS = 1000
"""With fewer rows isotonic regression fits their noise: Niculescu-Mizil and Caruana, "Predicting Good Probabilities
With Supervised Learning" (2005)."""
_CLIP = 1e-6


@dataclass(frozen=True)
class Calibration:
    """A map from scores to probabilities, fitted on groups of test rows with about the same score.

    Attributes:
        method: "isotonic" regression, or "platt": a logistic function of the score's logit.
        scores: Mean score of each group, ascending.
        shares: Share of positive labels in each group.
        rows: Rows of each group.
    """

    method: Literal["isotonic", "platt"]
    scores: tuple[float, ...]
    shares: tuple[float, ...]
    rows: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Calibration":
        return cls(stored["method"], *(tuple(stored[name]) for name in ("scores", "shares", "rows")))

    def resample(self, rng: np.random.Generator) -> "Calibration":
        """A parametric bootstrap sample: as many rows in each group, with labels drawn by this calibration."""
        likely = self.probabilities(np.asarray(self.scores))
        shares = rng.binomial(self.rows, likely) / np.asarray(self.rows)
        return Calibration(self.method, self.scores, tuple(shares.tolist()), self.rows)

    def probabilities(self, score: Array) -> Array:
        """The probability of a positive label, float64 [n], of scores [n]."""
        return self._isotonic(score) if self.method == "isotonic" else self._platt(score)

    def _isotonic(self, score: Array) -> Array:
        from sklearn.isotonic import IsotonicRegression  # type: ignore[import-untyped]

        fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        fitted.fit(self.scores, self.shares, sample_weight=self.rows)
        found: Array = fitted.predict(score)
        return found

    def _platt(self, score: Array) -> Array:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

        shares, rows = np.asarray(self.shares), np.asarray(self.rows)
        label = np.repeat([1, 0], len(rows))
        weight = np.concatenate([rows * shares, rows * (1 - shares)])
        if not (weight[label == 1].sum() and weight[label == 0].sum()):
            return np.full(len(score), float(shares @ rows / rows.sum()))
        fitted = LogisticRegression(C=1e6, max_iter=1000)
        fitted.fit(np.tile(_logit(np.asarray(self.scores)), 2)[:, None], label, sample_weight=weight)
        found: Array = fitted.predict_proba(_logit(score)[:, None])[:, 1]
        return found


def fit_calibration(label: Array, score: Array, weight: Array | None = None) -> Calibration:
    """The calibration of scores in [0, 1], float64 [n], by labels of 0 and 1, float64 [n]."""
    order = np.argsort(score, kind="stable")
    groups = [group for group in np.array_split(order, min(GROUPS, max(1, len(order) // 20))) if len(group)]
    return Calibration(
        "isotonic" if len(label) >= LEAST_ISOTONIC_ROWS else "platt",
        tuple(_means(score, groups, weight)),
        tuple(_means((label > 0.5).astype(np.float64), groups, weight)),
        tuple(len(group) for group in groups),
    )


def evaluate(
    pipeline: Trainable, model: Any, splits: Mapping[str, SplitExamples], scored: Mapping[str, ScoredSplit]
) -> dict[str, Any]:
    """Maps from the scores of the test split to probabilities, as `calibrations` of a model's evaluation."""
    test = splits["test"]
    return {"calibrations": fit_calibrations(pipeline.task, test.label, scored["test"].scores, test.weight)}


def fit_calibrations(task: str, label: Array, score: Array, weight: Array | None = None) -> list[dict[str, Any]]:
    """One calibration of a binary score, or one for each class against the others; empty for scores outside [0, 1]."""
    if task == "binary":
        is_share = len(score) > 0 and score.min() >= 0 and score.max() <= 1
        return [fit_calibration(label, score, weight).to_json()] if is_share else []
    if task != "multiclass":
        return []
    classes = range(score.shape[1])
    return [fit_calibration((label == i).astype(np.float64), score[:, i], weight).to_json() for i in classes]


def _means(values: Array, groups: Sequence[np.ndarray[Any, Any]], weight: Array | None) -> list[float]:
    weights = [None if weight is None or not weight[group].sum() else weight[group] for group in groups]
    return [float(np.average(values[group], weights=each)) for group, each in zip(groups, weights, strict=True)]


def _logit(score: Array) -> Array:
    clipped = np.clip(score.astype(np.float64), _CLIP, 1 - _CLIP)
    found: Array = np.log(clipped / (1 - clipped))
    return found
