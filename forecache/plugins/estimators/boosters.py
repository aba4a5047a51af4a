"""The runtimes of LightGBM's and XGBoost's Boosters, from files in the libraries' own formats."""

from functools import cached_property
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
        "the model is a LightGBM Booster; workers import LightGBM only, one thread each",
    )


def load_lightgbm(payload: bytes) -> Predict:
    """Load the prediction function from a Booster's file."""
    import lightgbm

    return _Booster(lightgbm.Booster(model_str=payload.decode()))


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
    """Load the prediction function from a Booster's file."""
    import xgboost

    booster = xgboost.Booster(model_file=bytearray(payload))
    booster.set_param({"nthread": 1})
    return lambda matrix: np.asarray(booster.inplace_predict(matrix, validate_features=False))


XGBOOST = Runtime("xgboost", "xgboost", ("xgboost", "xgboost-cpu"), _pack_xgboost, estimator_kernel(load_xgboost))
