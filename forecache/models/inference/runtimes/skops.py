"""scikit-learn estimators that others saved with skops, of types that run no code of the file.

MLflow takes the list of trusted types from the model itself, and so loads none if pickles are not allowed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from forecache.models.inference.arrays import run_in_blocks
from forecache.models.inference.kernel_spec import CLASSES, KernelSpec, pickle_allowed
from forecache.models.inference.runtimes.pyfunc import as_columns
from forecache.models.inference.runtimes.runtime import (
    Kernel,
    MatrixKernel,
    PackedModel,
    Runtime,
    StoredModel,
    new_spec,
)
from forecache.models.inference.runtimes.sklearn import load_skops, untrusted_types

_METHODS = ("predict", "predict_proba", "predict_log_proba", "predict_joint_log_proba")


def _pack(model: StoredModel) -> "PackedModel | str":
    flavour = model.flavours["sklearn"]
    if flavour.get("serialization_format") != "skops":
        return "is saved as a pickle"
    if pickle_allowed():
        return "may be loaded by MLflow itself, as pickles are allowed"
    method = model.flavours.get("python_function", {}).get("predict_fn", "predict")
    if method not in _METHODS:
        return f"is to be asked for {method}"
    payload = (model.path / flavour["pickled_model"]).read_bytes()
    untrusted = untrusted_types(payload)
    if untrusted:
        return f"holds {untrusted[0]}, which cannot be loaded without trusting code in the file"
    options: dict[str, Any] = {"method": method}
    if method == "predict_proba" and len(model.outputs) == 1:
        options[CLASSES] = [_class_label(each) for each in getattr(load_skops(payload), "classes_", ())]
    reason = "the model is a scikit-learn estimator of safe types only; workers import scikit-learn, one thread each"
    return PackedModel(new_spec("skops", model.signature, "float64", options), payload, reason)


def _class_label(label: Any) -> str:
    return str(int(label)) if isinstance(label, (float, np.floating)) and label % 1 == 0 else str(label)


def _load(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
    from joblib import parallel_config  # type: ignore[import-untyped]
    from threadpoolctl import ThreadpoolController

    estimator, pools = load_skops(payload()), ThreadpoolController()
    names = list(spec.inputs) if hasattr(estimator, "feature_names_in_") else []

    def predict(block: np.ndarray) -> list[np.ndarray]:
        with parallel_config(backend="sequential"), pools.limit(limits=1):
            found = getattr(estimator, spec.options["method"])(_as_frame(block, names))
        return as_columns(found, spec)

    return MatrixKernel(spec, lambda matrix: run_in_blocks(matrix, predict))


def _as_frame(block: np.ndarray, names: list[str]) -> Any:
    """A pandas frame for an estimator that was fitted with one: it may pick columns by their names."""
    if not names:
        return block
    import pandas as pd  # type: ignore[import-untyped]

    return pd.DataFrame(block, columns=names, copy=False)


RUNTIME = Runtime("skops", "sklearn", ("scikit-learn", "skops"), _pack, _load)
