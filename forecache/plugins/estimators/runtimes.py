"""The runtimes of estimators, in the order in which a model is offered to them, and their files as models of MLflow."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from forecache.models.inference.runtimes.runtime import (
    PackedModel,
    Predict,
    Runtime,
    StoredModel,
    estimator_kernel,
    new_spec,
)
from forecache.plugins.estimators.native_booster import load_booster
from forecache.plugins.estimators.skops_files import SAFE_TYPES, SKLEARN, SKOPS, load_skops
from forecache.plugins.estimators.tree_tables import TreeTables, tree_tables

_FEW = 1024


def _pack_lightgbm(model: StoredModel) -> "PackedModel | str":
    file, signature = model.path / model.flavours["lightgbm"]["data"], model.signature
    if file.suffix != ".lgb":
        return "is a LightGBM scikit-learn wrapper, not a Booster"
    if len(model.outputs) != 1:
        return f"has {len(model.outputs)} outputs"
    all_float = signature.tensor == "float32" or set(signature.input_types) == {"float"}
    return PackedModel(
        new_spec("lightgbm", signature, "float32" if all_float else "float64", {}),
        file.read_bytes(),
        "the model is a LightGBM Booster; workers load LightGBM's library only, one thread each",
    )


def load_lightgbm(payload: bytes) -> Predict:
    return _Booster(load_booster(payload))


class _Booster:
    """Scores few rows by tables, if the model has them, and many by LightGBM: equal to the bit."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        if len(matrix) <= _FEW and matrix.dtype == np.float32 and self._tables is not None:
            return self._tables.scores(matrix)
        return np.asarray(self._booster.predict(matrix, num_threads=1))

    @cached_property
    def _tables(self) -> TreeTables | None:
        # Made at the first request with few rows, so that a worker of a scoring run makes none.
        try:
            return tree_tables(self._booster.dump_model())
        except ValueError:  # NaN, which linear leaves may have, is not valid JSON
            return None


LIGHTGBM = Runtime("lightgbm", "lightgbm", ("lightgbm",), _pack_lightgbm, estimator_kernel(load_lightgbm))


def _pack_xgboost(model: StoredModel) -> "PackedModel | str":
    flavour, signature = model.flavours["xgboost"], model.signature
    if not flavour.get("model_class", "").endswith(".Booster") or flavour.get("model_format") not in ("json", "ubj"):
        return "is no Booster in XGBoost's JSON"
    if len(model.outputs) != 1:
        return f"has {len(model.outputs)} outputs"
    import xgboost

    payload = (model.path / flavour["data"]).read_bytes()
    trained = xgboost.Booster(model_file=bytearray(payload)).feature_names
    if trained and signature.inputs and tuple(trained) != signature.inputs:
        return "was trained on columns of other names or in another order than its signature's"
    return PackedModel(
        new_spec("xgboost", signature, "float32", {}),
        payload,
        "the model is an XGBoost Booster; workers import XGBoost only, one thread each",
    )


def load_xgboost(payload: bytes) -> Predict:
    import xgboost

    booster = xgboost.Booster(model_file=bytearray(payload))
    booster.set_param({"nthread": 1})
    return lambda matrix: np.asarray(booster.inplace_predict(matrix, validate_features=False))


XGBOOST = Runtime("xgboost", "xgboost", ("xgboost", "xgboost-cpu"), _pack_xgboost, estimator_kernel(load_xgboost))


RUNTIMES = (LIGHTGBM, XGBOOST, SKLEARN, SKOPS)


def log_file(runtime: str, path: Path, **common: Any) -> Any:
    """Log the file of an estimator in the flavour of its library, with the arguments of MLflow that all have."""
    return {"lightgbm": _log_lightgbm, "xgboost": _log_xgboost, "sklearn": _log_sklearn}[runtime](path, **common)


def _log_lightgbm(path: Path, **common: Any) -> Any:
    import lightgbm
    import mlflow.lightgbm

    return mlflow.lightgbm.log_model(lightgbm.Booster(model_file=path), **common)


def _log_xgboost(path: Path, **common: Any) -> Any:
    import mlflow.xgboost
    import xgboost

    return mlflow.xgboost.log_model(xgboost.Booster(model_file=str(path)), model_format="json", **common)


def _log_sklearn(path: Path, **common: Any) -> Any:
    import mlflow.sklearn

    estimator = load_skops(path.read_bytes())
    predict = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
    return mlflow.sklearn.log_model(
        estimator,
        serialization_format="skops",
        skops_trusted_types=list(SAFE_TYPES),
        pyfunc_predict_fn=predict,
        **common,
    )
