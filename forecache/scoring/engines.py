"""Which runtime scores a model, and why: the rule, the bytes that workers get, the plan that a run records.

The rule, in order, where every input is a number:
1. `onnx`: the model has an ONNX flavour whose graph takes one matrix [rows, features] or one tensor a column, and
   returns plain tensors, as many as the signature names.
2. `lightgbm`, `xgboost`: a Booster saved in its library's own format.
3. `sklearn`: a scikit-learn estimator that Forecache trained and saved with skops, of types known to be safe.
4. `torch`: a torch flavour saved as an exported program (pt2) with one matrix as input.
5. `pyfunc`: everything else, and every model that is given a `model_config`, which only `mlflow.pyfunc` understands.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forecache.errors import InputError, NotFoundError, SettingsError
from forecache.scoring.environment import compare_environment
from forecache.scoring.estimators import BOUNDS
from forecache.scoring.mlmodel import ModelDescription, describe_model
from forecache.scoring.runtimes import onnx_session
from forecache.scoring.signature import Signature, read_signature, resolve_result
from forecache.scoring.spec import ALLOW_PICKLE, KERNEL_VERSION, EngineName, KernelSpec, OutputColumn

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

EngineChoice = Literal["auto", "onnx", "lightgbm", "xgboost", "sklearn", "torch", "pyfunc"]
_ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


@dataclass(frozen=True)
class Plan:
    """How a model will be scored; `metadata()` is what a run records.

    Attributes:
        payload: What workers load: the model's file, or the model's folder as a zip archive.
        reason: Why this engine.
        warnings: Differences between the model's environment and this one that do not stop the run.
    """

    uri: str
    spec: KernelSpec
    payload: bytes = field(repr=False)
    reason: str
    warnings: tuple[str, ...] = ()

    def metadata(self) -> dict[str, Any]:
        return {
            "model_uri": self.uri,
            "engine": self.spec.engine,
            "reason": self.reason,
            "returns": [f"{column.name}: {column.ddl}" for column in self.spec.outputs],
            "model_bytes": len(self.payload),
            "checksum": self.spec.checksum,
            "warnings": list(self.warnings),
        }


def plan_scoring(
    model_uri: str,
    *,
    result_type: "str | DataType | None" = None,
    model_config: Mapping[str, Any] | None = None,
    engine: EngineChoice = "auto",
) -> Plan:
    """Resolve a model URI, choose its engine, and prove that its result and its environment fit.

    Raises:
        NotFoundError: The URI leads to no model.
        SettingsError: The result type does not fit the signature, or the engine asked for cannot run this model.
        InputError: The model needs another version of its inference package than the one installed.
        CheckError: A registered model does not match its checksums.
    """
    path = _local_path(model_uri)
    model = describe_model(path)
    signature = read_signature(model.inputs, model.outputs)
    outputs, shape = resolve_result(signature.outputs, result_type)
    chosen, reason, spec, payload = _choose(path, model, signature, outputs, model_config, engine)
    warnings = compare_environment(path, chosen)
    limits = [spec.options[BOUNDS]] if BOUNDS in spec.options else []
    digest = hashlib.sha256(payload)
    digest.update(json.dumps([chosen, KERNEL_VERSION, model_config, repr(outputs), *limits], sort_keys=True).encode())
    spec = replace(spec, shape=shape, outputs=outputs, model_config=model_config, checksum=digest.hexdigest()[:20])
    return Plan(model_uri, spec, payload, reason, warnings)


def _local_path(model_uri: str) -> Path:
    if "://" not in model_uri and not model_uri.startswith(("models:", "runs:")) and Path(model_uri).is_dir():
        return Path(model_uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from forecache.registry.models import refuse_changed

    try:
        path = Path(download_artifacts(artifact_uri=model_uri))
        if model_uri.startswith("models:/"):
            refuse_changed(path, model_uri)
    except (MlflowException, OSError) as error:
        raise NotFoundError(
            f"The model {model_uri!r} cannot be read: {str(error).splitlines()[0]}.",
            remedy="Give models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/NAME or a model's folder.",
        ) from None
    return path


def _choose(
    path: Path,
    model: ModelDescription,
    signature: Signature,
    outputs: tuple[OutputColumn, ...],
    model_config: Mapping[str, Any] | None,
    engine: EngineChoice,
) -> tuple[EngineName, str, KernelSpec, bytes]:
    refusals: dict[str, str] = {}
    limits = {BOUNDS: model.metadata[BOUNDS]} if BOUNDS in model.metadata else {}
    builders = {"onnx": _onnx, "lightgbm": _lightgbm, "xgboost": _xgboost, "sklearn": _sklearn, "torch": _torch}
    for name, build in builders.items():
        if engine not in ("auto", name):
            continue
        refusal = _refusal(signature, model_config)
        if not refusal and _flavour(name) not in model.flavours:
            refusal = "has no such flavour"
        if not refusal and name == "sklearn" and not limits:
            refusal = "was not trained by Forecache"
        if not refusal:
            built = build(path, model.flavours[_flavour(name)], signature, outputs)
            if not isinstance(built, str):
                spec = replace(built[0], options={**built[0].options, **limits})
                return spec.engine, f"{name}: {built[2]}", spec, built[1]
            refusal = built
        refusals[name] = refusal
    if engine not in ("auto", "pyfunc"):
        raise SettingsError(
            f"The engine {engine!r} cannot score this model: it {refusals[engine]}.",
            remedy="Use engine='auto'.",
        )
    # The workers' own environment was fixed when the JVM started; what counts is what holds here and now.
    options = {"tensor": signature.tensor is not None, "allow_pickle": os.environ.get(ALLOW_PICKLE)}
    spec = _spec("pyfunc", signature, signature.tensor or "float32", options)
    told = "; ".join(f"{name}: it {why}" for name, why in refusals.items()) or "asked for"
    return "pyfunc", f"pyfunc ({told})", spec, _archive(path)


def _flavour(engine: str) -> str:
    return "pytorch" if engine == "torch" else engine


def _refusal(signature: Signature, model_config: Mapping[str, Any] | None) -> str:
    if model_config is not None:
        return "was given a model_config"
    if not signature.is_numeric:
        return "has no signature of numbers only"
    return ""


def _spec(engine: EngineName, signature: Signature, dtype: str, options: Mapping[str, Any]) -> KernelSpec:
    return KernelSpec(engine, "", signature.inputs, signature.width, dtype, (), "scalar", options)


def _onnx(
    path: Path, flavour: Mapping[str, Any], signature: Signature, outputs: tuple[OutputColumn, ...]
) -> "tuple[KernelSpec, bytes, str] | str":
    import onnxruntime

    file = path / flavour["data"]
    payload = _onnx_bytes(file)
    declared = flavour.get("onnx_session_options") or {}
    options = {
        "providers": [name for name in flavour.get("providers") or () if isinstance(name, str)],
        "session_config": declared.get("extra_session_config") or {},
    }
    session = onnx_session(onnxruntime, payload, options)
    takes, returns = session.get_inputs(), session.get_outputs()
    if any(tensor.type not in _ONNX_TYPES for tensor in takes):
        return f"takes {takes[0].type}"
    if any(not tensor.type.startswith("tensor(") for tensor in returns):
        return "returns something else than plain tensors"
    if len(takes) > 1 and {tensor.name for tensor in takes} != set(signature.inputs):
        return f"takes {len(takes)} tensors that are not the signature's columns"
    if any(len(tensor.shape) > 2 for tensor in takes):
        return f"takes a tensor of {len(takes[0].shape)} dimensions"
    by_name = {tensor.name for tensor in returns}
    names = [column.name for column in outputs]
    fetches = names if set(names) <= by_name else [tensor.name for tensor in returns]
    if len(fetches) != len(names):
        return f"returns {len(fetches)} tensors for {len(names)} outputs"
    order = signature.inputs if len(takes) > 1 else (takes[0].name,)
    tensors = {tensor.name: tensor for tensor in takes}
    feeds = [(name, _ONNX_TYPES[tensors[name].type], len(tensors[name].shape)) for name in order]
    width = takes[0].shape[1] if len(takes) == 1 and isinstance(takes[0].shape[1], int) else signature.width
    dtype = feeds[0][1] if len({kind for _, kind, _ in feeds}) == 1 else "float64"
    spec = _spec("onnx", signature, dtype, {**options, "feeds": feeds, "fetches": fetches})
    return replace(spec, width=width), payload, "the model has an ONNX flavour; workers import ONNX Runtime only"


def _onnx_bytes(file: Path) -> bytes:
    # Weights may lie in a file of their own beside the graph; workers get one piece.
    raw = file.read_bytes()
    if b"location" not in raw:
        return raw
    import onnx

    model = onnx.load(str(file))
    onnx.external_data_helper.convert_model_from_external_data(model)
    return model.SerializeToString()


def _lightgbm(
    path: Path, flavour: Mapping[str, Any], signature: Signature, outputs: tuple[OutputColumn, ...]
) -> "tuple[KernelSpec, bytes, str] | str":
    file = path / flavour["data"]
    if file.suffix != ".lgb":
        return "is a LightGBM scikit-learn wrapper, not a Booster"
    if len(outputs) != 1:
        return f"has {len(outputs)} outputs"
    return (
        _spec("lightgbm", signature, "float32" if _all_float(signature) else "float64", {}),
        file.read_bytes(),
        ("the model is a LightGBM Booster; workers import LightGBM only, one thread each"),
    )


def _xgboost(
    path: Path, flavour: Mapping[str, Any], signature: Signature, outputs: tuple[OutputColumn, ...]
) -> "tuple[KernelSpec, bytes, str] | str":
    if not flavour.get("model_class", "").endswith(".Booster") or flavour.get("model_format") not in ("json", "ubj"):
        return "is no Booster in XGBoost's JSON"
    if len(outputs) != 1 or outputs[0].width is not None:
        return "has more than one output"
    return (
        _spec("xgboost", signature, "float32", {}),
        (path / flavour["data"]).read_bytes(),
        "the model is an XGBoost Booster; workers import XGBoost only, one thread each",
    )


def _sklearn(
    path: Path, flavour: Mapping[str, Any], signature: Signature, outputs: tuple[OutputColumn, ...]
) -> "tuple[KernelSpec, bytes, str] | str":
    if flavour.get("serialization_format") != "skops":
        return "is saved as a pickle"
    return (
        _spec("sklearn", signature, "float32", {}),
        (path / flavour["pickled_model"]).read_bytes(),
        "the model is a scikit-learn estimator of safe types only; workers import scikit-learn, one thread each",
    )


def _all_float(signature: Signature) -> bool:
    return signature.tensor == "float32" or set(signature.input_types) == {"float"}


def _torch(
    path: Path, flavour: Mapping[str, Any], signature: Signature, outputs: tuple[OutputColumn, ...]
) -> "tuple[KernelSpec, bytes, str] | str":
    file = path / flavour.get("model_data", "data") / "model.pt2"
    if not file.is_file():
        return "is not saved as an exported program (pt2)"
    if signature.tensor != "float32":
        return "does not take one float32 matrix"
    return (
        _spec("torch", signature, "float32", {}),
        file.read_bytes(),
        ("the model has a torch flavour saved as an exported program; workers import torch only"),
    )


def _archive(path: Path) -> bytes:
    """The model's folder as a zip archive with fixed dates, so that equal folders give equal bytes."""
    buffer = io.BytesIO()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise InputError(f"The model's folder {path} is empty.", remedy="Log the model again.")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(str(file.relative_to(path))), file.read_bytes())
    return buffer.getvalue()
