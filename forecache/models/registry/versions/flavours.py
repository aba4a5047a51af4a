"""Logging a trained model's file to MLflow in the flavour of its library; loading one never executes a pickle."""

import json
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from forecache.base.errors import NotFoundError
from forecache.declare import Trainable
from forecache.models.inference.encoding import ENCODING, MatrixEncoding
from forecache.models.inference.kernel_spec import OUTPUTS
from forecache.models.inference.onnx_preprocessing import add_preprocessing
from forecache.models.inference.runtimes.sklearn import SAFE_TYPES, load_skops
from forecache.models.training.spec import MODEL_FILES
from forecache.models.training.vocabulary import trained_encoding

_PACKAGES = {
    "onnx": ("onnx", "onnxruntime"),
    "lightgbm": ("lightgbm",),
    "xgboost": ("xgboost", "xgboost-cpu"),
    "sklearn": ("scikit-learn", "skops"),
}


def find_model_file(folder: Path) -> tuple[str, Path]:
    """The runtime and the file of the trained model in a run's folder.

    Raises:
        NotFoundError: The folder has no model file.
    """
    for runtime, name in MODEL_FILES.items():
        if (folder / name).is_file():
            return runtime, folder / name
    raise NotFoundError(
        f"The folder {folder} has no model.", remedy=f"One of {', '.join(MODEL_FILES.values())} is expected."
    )


def log_model(pipeline: Trainable, run_dir: Path, classes: tuple[str, ...] = ()) -> Any:
    """Log the model of a run's folder as `model` of the active MLflow run, and return MLflow's `ModelInfo`.

    The signature has one column for each column of the matrix and the declared outputs. They are floats; an ONNX graph
    takes categories as strings and integers as doubles, and an estimator the codes of the encoding. That, bounds and
    the order of the classes are in the model's metadata, for scoring without the declaration.

    Args:
        classes: Of the training set, in the order of the model's probabilities.
    """
    runtime, path = find_model_file(run_dir)
    # Listed here because MLflow would import and run the model to infer them, which takes several seconds.
    packages = [
        f"{name}=={found}" for name, found in installed_versions("mlflow", "numpy", *_PACKAGES[runtime]).items()
    ]
    outputs = [replace(o, classes=classes) if o.kind == "classes" else o for o in pipeline.output_specs]
    encoding = trained_encoding(pipeline, run_dir)
    metadata: dict[str, Any] = {OUTPUTS: json.loads(json.dumps([asdict(output) for output in outputs]))}
    metadata |= {} if encoding.is_plain else {ENCODING: encoding.to_json()}
    common: dict[str, Any] = {"name": "model", "pip_requirements": packages, "metadata": metadata}
    if runtime == "onnx":
        signature = _signature(pipeline, encoding, "float", takes_texts=True)
        return _log_onnx(path, encoding, signature=signature, **common)
    if runtime == "xgboost":
        return _log_xgboost(path, signature=_signature(pipeline, encoding, "float"), **common)
    log = _log_lightgbm if runtime == "lightgbm" else _log_sklearn
    return log(path, signature=_signature(pipeline, encoding, "double"), **common)


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of those packages that are installed, by name."""
    found = {}
    for name in packages:
        try:
            found[name] = installed_version(name)
        except PackageNotFoundError:
            continue
    return found


def _signature(pipeline: Trainable, encoding: MatrixEncoding, output_type: str, *, takes_texts: bool = False) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    values: Any = DataType[output_type]
    returned = [ColSpec(Array(values) if output.is_array else values, output.name) for output in pipeline.output_specs]
    kinds = {"category": "string", "integer": "double"} if takes_texts else {}
    return ModelSignature(
        Schema([ColSpec(kinds.get(each.type, "float"), name) for each in encoding.features for name in each.columns]),
        Schema(returned),
    )


def _log_onnx(path: Path, encoding: MatrixEncoding, **common: Any) -> Any:
    import mlflow.onnx
    import onnx

    graph = onnx.load(path)
    return mlflow.onnx.log_model(
        graph if encoding.is_plain else add_preprocessing(graph, encoding),
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
        **common,
    )


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
