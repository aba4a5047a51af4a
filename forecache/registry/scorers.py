"""A model's file as a function from features to scores, whatever library it belongs to; loading executes no pickle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forecache.errors import NotFoundError
from forecache.registry.metrics import Array
from forecache.scoring.estimators import BOUNDS, bounded, load_estimator
from forecache.training.spec import MODEL_FILES

_BATCH_ROWS = 1 << 16
_MLMODEL = "MLmodel"


@dataclass(frozen=True)
class Scorer:
    """A loaded model.

    Attributes:
        predict: float32 [n, num_features] with NaN for unknown -> scores of n rows, on one thread.
        output: Name of its output; "" in a run's folder, where only ONNX files carry one.
        size_bytes: Size of its file.
    """

    predict: Callable[[NDArray[np.float32]], NDArray[Any]]
    output: str
    size_bytes: int


def model_file(folder: Path) -> tuple[str, Path]:
    """The engine and the file of a trained model in a run's folder, or in that of a registered model.

    Raises:
        NotFoundError: There is none.
    """
    for engine, name in MODEL_FILES.items():
        if (folder / name).is_file():
            return engine, folder / name
    raise NotFoundError(
        f"The folder {folder} holds no model.", remedy=f"One of {', '.join(MODEL_FILES.values())} is expected."
    )


def open_scorer(folder: Path, *, bounds: Sequence[float | None] | None = None) -> Scorer:
    """Load the model of a run's folder, or of a registered model's.

    Args:
        bounds: Smallest and largest output; None: those that a registered model was logged with.
    """
    engine, path = model_file(folder)
    output = ""
    if (folder / _MLMODEL).is_file():
        from mlflow.models import Model

        model = Model.load(str(folder))
        output = model.get_output_schema().input_names()[0]
        bounds = bounds if bounds is not None else (model.metadata or {}).get(BOUNDS)
    if engine == "onnx":
        session = onnx_session(path)
        run, limits = _onnx(session), bounds or (None, None)
        return Scorer(
            lambda features: bounded(run(features), limits), session.get_outputs()[0].name, path.stat().st_size
        )
    return Scorer(load_estimator(engine, path.read_bytes(), {BOUNDS: bounds}), output, path.stat().st_size)


def onnx_session(path: Path, *, threads: int = 1) -> Any:
    """An ONNX Runtime session on the CPU; one thread makes its sums repeatable."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def score(scorer: Scorer, features: NDArray[np.float32]) -> Array:
    """The model's output for float32 [n, num_features], as float64 [n]."""
    parts = [
        scorer.predict(features[start : start + _BATCH_ROWS]).reshape(-1)
        for start in range(0, len(features), _BATCH_ROWS)
    ]
    return np.concatenate(parts).astype(np.float64)


def _onnx(session: Any) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
    name = session.get_inputs()[0].name
    return lambda features: session.run(None, {name: features})[0]
