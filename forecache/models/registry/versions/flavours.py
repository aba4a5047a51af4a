"""Logging a trained model's file to MLflow in the flavour of its library; loading one never executes a pickle."""

import json
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from forecache.base.errors import NotFoundError
from forecache.base.plugins import load_hook
from forecache.declare import Trainable
from forecache.models.inference.encoding import ENCODING, MatrixEncoding
from forecache.models.inference.kernel_spec import OUTPUTS
from forecache.models.inference.known_runtimes import find_runtimes
from forecache.models.inference.onnx_preprocessing import add_preprocessing
from forecache.models.training.launch import trained_encoding
from forecache.models.training.spec import MODEL_FILES


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
    names = ("mlflow", "numpy", *(["onnx"] if runtime == "onnx" else []), *find_runtimes()[runtime].packages)
    packages = [f"{name}=={found}" for name, found in installed_versions(*names).items()]
    outputs = [replace(o, classes=classes) if o.kind == "classes" else o for o in pipeline.output_specs]
    encoding = trained_encoding(pipeline, run_dir)
    metadata: dict[str, Any] = {OUTPUTS: json.loads(json.dumps([asdict(output) for output in outputs]))}
    metadata |= {} if encoding.is_plain else {ENCODING: encoding.to_json()}
    common: dict[str, Any] = {"name": "model", "pip_requirements": packages, "metadata": metadata}
    if runtime == "onnx":
        signature = _signature(pipeline, encoding, "float", takes_texts=True)
        return _log_onnx(path, encoding, signature=signature, **common)
    signature = _signature(pipeline, encoding, "float" if runtime == "xgboost" else "double")
    return load_hook("estimators", "log_file")(runtime, path, signature=signature, **common)


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
