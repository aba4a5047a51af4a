"""Estimators from the bytes of their file, without executing a pickle: LightGBM's text, XGBoost's JSON, skops.

Every one becomes a function from a matrix to one float a row, on a single thread.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from forecache.errors import CheckError
from forecache.scoring.batch import in_blocks

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
"""Types that skops does not trust by itself and that run no code when they are made: plain state of numpy's and
scikit-learn's own, a tree's besides checked by `_refuse_broken_trees`."""

_TREES = frozenset(
    f"{name}{kind}"
    for name in ("DecisionTree", "ExtraTree", "ExtraTrees", "RandomForest", "GradientBoosting", "HistGradientBoosting")
    for kind in ("Classifier", "Regressor")
)
"""scikit-learn's estimators whose row is scored by comparisons and sums of its own: the other rows do not matter."""


def load_estimator(engine: str, payload: bytes, options: Mapping[str, Any]) -> Predict:
    """The function of a file: [n, num_features] with NaN for unknown -> [n], within the bounds of the options.

    Args:
        engine: "lightgbm", "xgboost" or "sklearn".

    Raises:
        CheckError: A scikit-learn file holds types that are not known to be safe.
    """
    predict, limits = _LOADERS[engine](payload), options.get(BOUNDS)
    return (lambda matrix: bounded(predict(matrix), limits)) if limits else predict


def bounded(values: np.ndarray, limits: Sequence[float | None]) -> np.ndarray:
    """Values within (smallest, largest), each a number or None."""
    low, high = limits
    return values if low is None and high is None else np.clip(values, low, high)


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

    if type(estimator).__name__ in _TREES:
        return predict
    # In float64, as OpenBLAS's product in float32 gives a row other last bits at another place of the matrix.
    return lambda matrix: in_blocks(matrix.astype(np.float64), lambda block: [predict(block)])[0]


def load_skops(payload: bytes) -> Any:
    """A scikit-learn estimator from a skops file.

    Raises:
        CheckError: The file holds types beside those of scikit-learn, numpy and scipy that are known to be safe, or a
            tree that leads out of itself.
    """
    import skops.io

    untrusted = [name for name in skops.io.get_untrusted_types(data=payload) if name not in SAFE_TYPES]
    if untrusted:
        raise CheckError(
            f"The estimator holds {untrusted[0]}, which cannot be loaded without trusting code in the file.",
            remedy="docs/models.md lists the estimators that can be; LightGBM's and XGBoost's stand alone.",
        )
    estimator = skops.io.loads(payload, trusted=list(SAFE_TYPES))
    _refuse_broken_trees(estimator)
    return estimator


def _refuse_broken_trees(estimator: Any) -> None:
    """Compiled code follows a tree's nodes without looking: each must name a feature that there is and lead onward."""
    for tree, num_features in _trees(estimator, 0, set()):
        if hasattr(tree, "nodes"):  # of the boosting over histograms
            nodes = tree.nodes
            inner = nodes["is_leaf"] == 0
            feature, children = nodes["feature_idx"], (nodes["left"].astype(np.int64), nodes["right"].astype(np.int64))
            sets = nodes["bitset_idx"][inner & (nodes["is_categorical"] == 1)]
            whole = bool((sets < len(tree.raw_left_cat_bitsets)).all())
        else:
            inner, feature, children = tree.children_left != -1, tree.feature, (tree.children_left, tree.children_right)
            whole = bool(tree.n_features == num_features)
        own = np.arange(len(inner))
        onward = all(((own < child) & (child < len(own)))[inner].all() for child in children)
        if not (whole and onward and ((feature >= 0) & (feature < num_features))[inner].all()):
            raise CheckError(
                "A tree of the estimator names a node or a feature that it does not have.",
                remedy="The file was changed or is damaged: train and register the model again.",
            )


def _trees(value: Any, num_features: int, seen: set[int]) -> Iterator[tuple[Any, int]]:
    """The trees of an estimator and of those that it is made of, each with the number of features of its owner."""
    if id(value) in seen:
        return
    seen.add(id(value))
    parts: Iterable[Any] = ()
    if type(value).__name__ in ("Tree", "TreePredictor"):
        yield value, num_features
    elif isinstance(value, np.ndarray):
        parts = value.flat if value.dtype == object else ()
    elif isinstance(value, (list, tuple)):
        parts = value
    elif isinstance(value, dict):
        parts = value.values()
    elif type(value).__module__.startswith("sklearn."):
        num_features = getattr(value, "n_features_in_", num_features)
        parts = vars(value).values() if hasattr(value, "__dict__") else ()
    for part in parts:
        yield from _trees(part, num_features, seen)


_LOADERS: dict[str, Callable[[bytes], Predict]] = {"lightgbm": _lightgbm, "xgboost": _xgboost, "sklearn": _sklearn}
