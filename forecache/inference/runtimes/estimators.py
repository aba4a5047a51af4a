"""Estimators from the bytes of their file, without executing a pickle: LightGBM's text, XGBoost's JSON, skops.

Every one becomes a function from a matrix to one float a row, on a single thread.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from forecache.errors import CheckError
from forecache.inference.arrays import in_blocks
from forecache.inference.runtimes.trees import refuse_unsound_trees

Predict = Callable[[np.ndarray], np.ndarray]
BOUNDS = "forecache_bounds"
"""In a model's metadata and a kernel's options: smallest and largest output, each a number or None."""
SAFE_TYPES = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
"""Types that skops does not trust by itself and that hold numbers only: loading them runs no code of the file.

Trees are walked by compiled code that looks at no bounds; `forecache.inference.runtimes.trees` does."""
_ROW_BY_ROW = frozenset(
    f"{name}{kind}"
    for name in ("DecisionTree", "ExtraTree", "ExtraTrees", "RandomForest", "GradientBoosting", "HistGradientBoosting")
    for kind in ("Classifier", "Regressor")
)
"""scikit-learn's estimators whose row is scored by comparisons and sums of its own: the other rows do not matter."""


def load_estimator(engine: str, payload: bytes) -> Predict:
    """The function of a file: [n, num_features] with NaN for unknown -> [n].

    Args:
        engine: "lightgbm", "xgboost" or "sklearn".

    Raises:
        CheckError: A scikit-learn file holds types that are not known to be safe.
    """
    return _LOADERS[engine](payload)


def bounded(values: np.ndarray, limits: Sequence[float | None]) -> np.ndarray:
    """Values within (smallest, largest), each a number or None; what is cut off becomes the nearest number inside."""
    low, high = limits
    if low is None and high is None:
        return values
    return np.clip(values, _inside(low, values.dtype, np.inf), _inside(high, values.dtype, -np.inf))


def _inside(limit: float | None, dtype: np.dtype, inwards: float) -> Any:
    """A limit as a number of a type, which is not beyond the limit: float32 has no 0.1, but one a little above it."""
    if limit is None or dtype.kind != "f":
        return limit
    nearest = dtype.type(limit)
    beyond = float(nearest) < limit if inwards > 0 else float(nearest) > limit
    return np.nextafter(nearest, dtype.type(inwards)) if beyond else nearest


def _lightgbm(payload: bytes) -> Predict:
    import lightgbm

    booster = lightgbm.Booster(model_str=payload.decode())
    return lambda matrix: np.asarray(booster.predict(matrix, num_threads=1))


def _xgboost(payload: bytes) -> Predict:
    import xgboost

    booster = xgboost.Booster(model_file=bytearray(payload))
    booster.set_param({"nthread": 1})
    return lambda matrix: np.asarray(booster.inplace_predict(matrix, validate_features=False))


def _sklearn(payload: bytes) -> Predict:
    from joblib import parallel_config  # type: ignore[import-untyped]
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    estimator, pools = load_skops(payload), ThreadpoolController()
    binary = hasattr(estimator, "predict_proba")

    def predict(matrix: np.ndarray) -> np.ndarray:
        # Threads of a forest add up its trees in the order in which they end, those of BLAS cut its sums.
        with parallel_config(backend="sequential"), pools.limit(limits=1):
            values = estimator.predict_proba(matrix)[:, 1] if binary else estimator.predict(matrix)
        return np.asarray(values, np.float64).reshape(len(matrix))

    if type(estimator).__name__ in _ROW_BY_ROW:
        return predict
    # In float64, as OpenBLAS's product in float32 gives a row other last bits at another place of the matrix.
    return lambda matrix: in_blocks(matrix.astype(np.float64), lambda block: [predict(block)])[0]


def load_skops(payload: bytes) -> Any:
    """A scikit-learn estimator from a skops file.

    Raises:
        CheckError: The file holds types that are not known to be safe, or a tree that was tampered with.
    """
    import skops.io

    refuse_untrusted(payload)
    estimator = skops.io.loads(payload, trusted=list(SAFE_TYPES))
    refuse_unsound_trees(estimator)
    return estimator


def refuse_untrusted(payload: bytes) -> None:
    """Refuse a skops file that would run code when it is loaded; see `load_skops`."""
    import skops.io

    untrusted = [name for name in skops.io.get_untrusted_types(data=payload) if name not in SAFE_TYPES]
    if untrusted:
        raise CheckError(
            f"The estimator holds {untrusted[0]}, which cannot be loaded without trusting code in the file.",
            remedy="docs/models.md lists the estimators that can; LightGBM and XGBoost estimators stand alone.",
        )


_LOADERS: dict[str, Callable[[bytes], Predict]] = {"lightgbm": _lightgbm, "xgboost": _xgboost, "sklearn": _sklearn}
