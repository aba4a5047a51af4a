"""Contributions of features to a logged row's score: by the model's library if that is exact, else Shapley values."""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np

from forecache.base.plugins import load_hook
from forecache.models.inference.kernel_spec import PICKED
from forecache.realtime.release.folder import read_files
from forecache.realtime.release.format import MODEL_FILE
from forecache.realtime.release.load import LoadedRelease

Score = Callable[[np.ndarray], np.ndarray]
"""float32 [n, d] -> [n]."""
MOST_ENUMERATED = 8
PERMUTATIONS = 1024
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class ShapleyValues:
    """Contributions of the features of one row: `base` and their sum are the row's score."""

    base: float  # mean score of the background
    contributions: np.ndarray  # float64 [d]
    errors: np.ndarray  # standard error of each, float64 [d]; zeros if nothing was drawn
    permutations: int  # drawn ones; 0: all sets of features were enumerated


def compute_shapley(
    score: Score, row: np.ndarray, background: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> ShapleyValues:
    """Compute the Shapley values of a row.

    Args:
        row: float32 [d]; may have NaN.
        background: float32 [b, d], b > 0.
        permutations: Least number; a multiple of b is drawn, so that each background row counts the same.
    """
    differs = np.flatnonzero(((background != row) & ~(np.isnan(background) & np.isnan(row))).any(axis=0))
    if len(differs) <= MOST_ENUMERATED:
        return _enumerate_sets(score, row, background, differs)
    return _draw_permutations(score, row, background, differs, permutations, seed)


def _enumerate_sets(score: Score, row: np.ndarray, background: np.ndarray, places: np.ndarray) -> ShapleyValues:
    """Enumerate all sets of the features at `places`; the others are the same everywhere and contribute nothing."""
    count = len(places)
    means = np.empty(1 << count)
    for chosen in range(1 << count):
        mixed = background.copy()
        picked = [place for bit, place in enumerate(places) if chosen >> bit & 1]
        mixed[:, picked] = row[picked]
        means[chosen] = np.asarray(score(mixed), np.float64).mean()
    found = np.zeros(len(row))
    weights = [factorial(size) * factorial(count - size - 1) / factorial(count) for size in range(count)]
    for bit, place in enumerate(places):
        for chosen in range(1 << count):
            if not chosen >> bit & 1:
                found[place] += weights[chosen.bit_count()] * (means[chosen | 1 << bit] - means[chosen])
    return ShapleyValues(float(means[0]), found, np.zeros(len(row)), 0)


def _draw_permutations(
    score: Score, row: np.ndarray, background: np.ndarray, places: np.ndarray, permutations: int, seed: int
) -> ShapleyValues:
    """Draw permutations in which the features at `places` are replaced one after the other."""
    rng, count = np.random.default_rng(seed), len(places)
    rounds = max(2, -(-permutations // len(background)))
    drawn = np.empty((rounds * len(background), count))
    base = 0.0
    at_once = max(1, _ROWS_AT_ONCE // (count + 1))
    for first in range(0, len(drawn), at_once):
        numbers = np.arange(first, min(first + at_once, len(drawn)))
        orders = np.argsort(rng.random((len(numbers), count)), axis=1)
        rows = np.repeat(background[numbers % len(background)][:, None, :], count + 1, axis=1)
        for step in range(count):
            changed = places[orders[:, step]]
            rows[np.arange(len(numbers)), step + 1 :, changed] = row[changed][:, None]
        scores = np.asarray(score(rows.reshape(-1, len(row))), np.float64).reshape(len(numbers), count + 1)
        np.put_along_axis(drawn[first : first + len(numbers)], orders, np.diff(scores, axis=1), axis=1)
        base += scores[:, 0].sum()
    found, errors = np.zeros(len(row)), np.zeros(len(row))
    found[places] = drawn.mean(axis=0)
    errors[places] = drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
    return ShapleyValues(base / len(drawn), found, errors, len(drawn))


_TREES = "TreeSHAP by {} (Lundberg et al. 2018), exact"
_LINEAR = "weights times the distance from the background's mean, exact"
_NO_ROWS = "There is nothing to compare with: no other logged row of that day and release has features."


@dataclass(frozen=True)
class Contributions:
    """`base` and the sum of `values` are `total`."""

    method: str
    background: str  # in words
    scale: str  # "score", or "raw score" before the model's last function
    base: float
    values: np.ndarray  # float64 [num_features]; 0 for one that the model does not use
    errors: np.ndarray | None = None  # their standard errors; None: exact

    @property
    def total(self) -> float:
        return self.base + float(self.values.sum())


def contributions_of(
    loaded: LoadedRelease, row: np.ndarray, background: np.ndarray, *, described: str
) -> Contributions | str:
    """Compute the contributions of a row's features; or return why there are none.

    Args:
        row: float32 [num_features], the inputs of the model.
        background: float32 [b, num_features], rows to compare with if the model's structure cannot be used; `described`
            in words.
    """
    release = loaded.release
    inputs = release.model.spec.inputs or release.features
    places = [release.features.index(name) for name in inputs]
    own = _OWN.get(release.model.runtime)
    # One value of several, such as the first class's probability, is no function of one raw score.
    if own is not None and all(place is None for _, place in release.model.spec.options.get(PICKED, ())):
        payload = read_files(loaded.place, {MODEL_FILE: release.files[MODEL_FILE]})[MODEL_FILE]
        found = own(payload, row[places].astype(release.model.spec.dtype), background[:, places], described)
        if found is not None:
            values = np.zeros(len(row))
            values[places] = found.values
            return Contributions(found.method, found.background, found.scale, found.base, values)
    if not len(background):
        return _NO_ROWS
    drawn = compute_shapley(loaded.scores_of, row, background)
    if not (np.isfinite(drawn.base) and np.isfinite(drawn.contributions).all()):
        return "The model has no score for some of the rows that would be compared, so they have no mean."
    by = f"{drawn.permutations:,} permutations (Castro et al. 2009)" if drawn.permutations else "all sets of features"
    errors = drawn.errors if drawn.permutations else None
    return Contributions(f"Shapley values by {by}", described, "score", drawn.base, drawn.contributions, errors)


def _lightgbm_contributions(
    payload: bytes, row: np.ndarray, background: np.ndarray, described: str
) -> Contributions | None:
    import lightgbm

    booster = lightgbm.Booster(model_str=payload.decode())
    try:
        found = np.asarray(booster.predict(row[None], pred_contrib=True, num_threads=1))
    except lightgbm.basic.LightGBMError:  # trees with linear leaves have none
        return None
    raw = np.asarray(booster.predict(row[None], raw_score=True, num_threads=1))
    return _tree_contributions("LightGBM", found, raw, len(row))


def _xgboost_contributions(
    payload: bytes, row: np.ndarray, background: np.ndarray, described: str
) -> Contributions | None:
    import xgboost

    booster = xgboost.Booster(model_file=bytearray(payload))
    booster.set_param({"nthread": 1})
    matrix = xgboost.DMatrix(row[None], feature_names=booster.feature_names, feature_types=booster.feature_types)
    found, raw = booster.predict(matrix, pred_contribs=True), booster.predict(matrix, output_margin=True)
    return _tree_contributions("XGBoost", np.asarray(found), np.asarray(raw), len(row))


def _tree_contributions(library: str, found: np.ndarray, raw: np.ndarray, width: int) -> Contributions | None:
    """Check a library's contributions [1, width + 1], base last; None if they are of several scores, or not the sum."""
    if found.shape != (1, width + 1) or not np.allclose(found.sum(), raw, rtol=1e-4, atol=1e-5):
        return None
    values = found[0].astype(np.float64)
    return Contributions(
        _TREES.format(library), "the rows that the model was trained with, by the trees' own counts", "raw score",
        float(values[-1]), values[:-1],
    )  # fmt: skip


def _sklearn_contributions(
    payload: bytes, row: np.ndarray, background: np.ndarray, described: str
) -> Contributions | None:
    """Contributions of a linear estimator; None for others, such as a pipeline, whose estimator has other inputs."""
    estimator = load_hook("estimators", "load_skops")(payload)
    weights = np.asarray(getattr(estimator, "coef_", ()), np.float64)
    if not type(estimator).__module__.startswith("sklearn.linear_model.") or weights.size != len(row):
        return None
    if hasattr(estimator, "predict_proba") != hasattr(estimator, "decision_function") or _has_link_function(estimator):
        return None
    if not len(background) or np.isnan(background).any() or np.isnan(row).any():
        return None
    weights, mean = weights.reshape(-1), background.mean(axis=0, dtype=np.float64)
    base = float(np.asarray(estimator.intercept_).reshape(-1)[0] + weights @ mean)
    scale = "raw score" if hasattr(estimator, "decision_function") else "score"
    return Contributions(_LINEAR, described, scale, base, weights * (row - mean))


def _has_link_function(estimator: Any) -> bool:
    """True if the score is a nonlinear function of the sum, as for generalised linear regressions."""
    return type(estimator).__name__ in ("PoissonRegressor", "GammaRegressor", "TweedieRegressor")


_Own = Callable[[bytes, np.ndarray, np.ndarray, str], Contributions | None]
_OWN: dict[str, _Own] = {
    "lightgbm": _lightgbm_contributions,
    "xgboost": _xgboost_contributions,
    "sklearn": _sklearn_contributions,
    "skops": _sklearn_contributions,
}
"""By runtime, functions that use the model's structure; they return None if that would not be exact."""
