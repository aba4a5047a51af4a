"""LightGBM: a Booster in the library's own text format."""

import numpy as np

from forecache.inference.runtimes.runtime import (
    Packed,
    Predict,
    Runtime,
    StoredModel,
    estimator_kernel,
    new_spec,
)


def _pack(model: StoredModel) -> "Packed | str":
    file, signature = model.path / model.flavours["lightgbm"]["data"], model.signature
    if file.suffix != ".lgb":
        return "is a LightGBM scikit-learn wrapper, not a Booster"
    if len(model.outputs) != 1:
        return f"has {len(model.outputs)} outputs"
    all_float = signature.tensor == "float32" or set(signature.input_types) == {"float"}
    return Packed(
        new_spec("lightgbm", signature, "float32" if all_float else "float64", {}),
        file.read_bytes(),
        "the model is a LightGBM Booster; workers import LightGBM only, one thread each",
    )


def load_booster(payload: bytes) -> Predict:
    """The function of a Booster's file."""
    import lightgbm

    booster = lightgbm.Booster(model_str=payload.decode())
    return lambda matrix: np.asarray(booster.predict(matrix, num_threads=1))


RUNTIME = Runtime("lightgbm", "lightgbm", ("lightgbm",), _pack, estimator_kernel(load_booster))
