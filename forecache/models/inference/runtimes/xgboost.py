"""XGBoost: a Booster in the library's JSON, trained on the signature's columns in their order."""

import numpy as np

from forecache.models.inference.runtimes.runtime import (
    PackedModel,
    Predict,
    Runtime,
    StoredModel,
    estimator_kernel,
    new_spec,
)


def _pack(model: StoredModel) -> "PackedModel | str":
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


def load_booster(payload: bytes) -> Predict:
    """Load the prediction function from a Booster's file."""
    import xgboost

    booster = xgboost.Booster(model_file=bytearray(payload))
    booster.set_param({"nthread": 1})
    return lambda matrix: np.asarray(booster.inplace_predict(matrix, validate_features=False))


RUNTIME = Runtime("xgboost", "xgboost", ("xgboost", "xgboost-cpu"), _pack, estimator_kernel(load_booster))
