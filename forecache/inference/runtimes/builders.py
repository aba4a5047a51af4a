"""What each runtime needs of a model: the kernel's spec and the bytes that workers load, or why it cannot score it."""

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from forecache.errors import CheckError, InputError
from forecache.inference.kernel_spec import EngineName, KernelSpec, OutputColumn, pickle_allowed
from forecache.inference.runtimes.exported import refuse_code
from forecache.inference.runtimes.runtimes import onnx_session
from forecache.inference.signature import Signature

Offer = tuple[KernelSpec, bytes, str]
"""The spec, the bytes that workers load, and why this engine."""
Builder = Callable[[Path, Mapping[str, Any], Signature, tuple[OutputColumn, ...]], "Offer | str"]
"""From the model's folder, the flavour's settings, the signature and the outputs: an offer, or what speaks against it,
with the model as the sentence's subject."""

_ONNX_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


def new_spec(engine: EngineName, signature: Signature, dtype: str, options: Mapping[str, Any]) -> KernelSpec:
    return KernelSpec(
        engine,
        "",
        signature.inputs,
        signature.width,
        dtype,
        (),
        "scalar",
        options,
        input_types=signature.input_types if signature.inputs else (),
        optional=signature.optional,
    )


def _onnx(
    path: Path, flavour: Mapping[str, Any], signature: Signature, outputs: tuple[OutputColumn, ...]
) -> "Offer | str":
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
    spec = new_spec("onnx", signature, dtype, {**options, "feeds": feeds, "fetches": fetches})
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
) -> "Offer | str":
    file = path / flavour["data"]
    if file.suffix != ".lgb":
        return "is a LightGBM scikit-learn wrapper, not a Booster"
    if len(outputs) != 1:
        return f"has {len(outputs)} outputs"
    return (
        new_spec("lightgbm", signature, "float32" if _all_float(signature) else "float64", {}),
        file.read_bytes(),
        ("the model is a LightGBM Booster; workers import LightGBM only, one thread each"),
    )


def _xgboost(
    path: Path, flavour: Mapping[str, Any], signature: Signature, outputs: tuple[OutputColumn, ...]
) -> "Offer | str":
    if not flavour.get("model_class", "").endswith(".Booster") or flavour.get("model_format") not in ("json", "ubj"):
        return "is no Booster in XGBoost's JSON"
    if len(outputs) != 1 or outputs[0].width is not None:
        return "has more than one output"
    import xgboost

    payload = (path / flavour["data"]).read_bytes()
    trained = xgboost.Booster(model_file=bytearray(payload)).feature_names
    if trained and signature.inputs and tuple(trained) != signature.inputs:
        return "was trained on columns of other names or in another order than its signature's"
    return (
        new_spec("xgboost", signature, "float32", {}),
        payload,
        "the model is an XGBoost Booster; workers import XGBoost only, one thread each",
    )


def _sklearn(
    path: Path, flavour: Mapping[str, Any], signature: Signature, outputs: tuple[OutputColumn, ...]
) -> "Offer | str":
    if flavour.get("serialization_format") != "skops":
        return "is saved as a pickle"
    return (
        new_spec("sklearn", signature, "float32", {}),
        (path / flavour["pickled_model"]).read_bytes(),
        "the model is a scikit-learn estimator of safe types only; workers import scikit-learn, one thread each",
    )


def _all_float(signature: Signature) -> bool:
    return signature.tensor == "float32" or set(signature.input_types) == {"float"}


def _torch(
    path: Path, flavour: Mapping[str, Any], signature: Signature, outputs: tuple[OutputColumn, ...]
) -> "Offer | str":
    file = path / flavour.get("model_data", "data") / "model.pt2"
    if not file.is_file():
        return "is not saved as an exported program (pt2)"
    try:
        refuse_code(file.read_bytes())
    except CheckError:
        if pickle_allowed():
            return "holds more than tensors and torch's own operators"
        raise
    if signature.tensor != "float32":
        return "does not take one float32 matrix"
    if len(outputs) != 1:
        return f"has {len(outputs)} outputs"
    return (
        new_spec("torch", signature, "float32", {}),
        file.read_bytes(),
        ("the model has a torch flavour saved as an exported program; workers import torch only"),
    )


def archive(path: Path) -> bytes:
    """The model's folder as a zip archive with fixed dates, so that equal folders give equal bytes."""
    buffer = io.BytesIO()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise InputError(f"The model's folder {path} is empty.", remedy="Log the model again.")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in files:
            archive.writestr(zipfile.ZipInfo(str(file.relative_to(path))), file.read_bytes())
    return buffer.getvalue()


BUILDERS: dict[str, Builder] = {
    "onnx": _onnx,
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
    "sklearn": _sklearn,
    "torch": _torch,
}
