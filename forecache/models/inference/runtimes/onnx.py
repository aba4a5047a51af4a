"""ONNX Runtime: models with an ONNX flavour whose graph takes one matrix, or one tensor for each column.

A registered graph has nodes before the network that make its matrix of the features as a caller has them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from forecache.models.inference.arrays import cast_numbers
from forecache.models.inference.encoding import (
    ENCODING,
    FIRST_CODE,
    NULL_CODE,
    UNKNOWN_CODE,
    FeatureEncoding,
    MatrixEncoding,
)
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.models.inference.runtimes.runtime import (
    Kernel,
    MatrixKernel,
    PackedModel,
    Runtime,
    StoredModel,
    new_spec,
)

_PREFIX = "forecache_front"


def add_preprocessing(model: Any, encoding: MatrixEncoding) -> Any:
    """Replace the matrix of an `onnx.ModelProto` by one input a column: float, double for an integer, or string.

    An empty text is a null. A vector has an input for each of its numbers.
    """
    from onnx import TensorProto, helper

    graph, matrix = model.graph, model.graph.input[0].name
    axes = f"{_PREFIX}_axes"
    inputs, nodes, parts = [], [], []
    for feature in encoding.features:
        kind = {"integer": TensorProto.DOUBLE, "category": TensorProto.STRING}.get(feature.type, TensorProto.FLOAT)
        for column in feature.columns:
            inputs.append(helper.make_tensor_value_info(column, kind, ["rows"]))
            number, part = f"{_PREFIX}_number_{column}", f"{_PREFIX}_column_{column}"
            nodes += [
                _number(feature, column, number),
                helper.make_node("Unsqueeze", [number, axes], [part], name=f"{part}_unsqueeze"),
            ]
            parts.append(part)
    nodes.append(helper.make_node("Concat", parts, [matrix], axis=1, name=f"{_PREFIX}_matrix"))
    graph.initializer.append(helper.make_tensor(axes, TensorProto.INT64, [1], [1]))
    core = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *core])
    graph.input.extend(inputs)
    if all(opset.domain != "ai.onnx.ml" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return model


def _number(feature: FeatureEncoding, column: str, output: str) -> Any:
    from onnx import TensorProto, helper

    if feature.type != "category":
        return helper.make_node("Cast", [column], [output], to=TensorProto.FLOAT, name=f"{output}_cast")
    codes = range(FIRST_CODE, feature.num_codes)
    return helper.make_node(
        "LabelEncoder",
        [column],
        [output],
        domain="ai.onnx.ml",
        keys_strings=["", *feature.categories],
        values_floats=[float(NULL_CODE), *map(float, codes)],
        default_float=float(UNKNOWN_CODE),
        name=f"{output}_codes",
    )


def remove_preprocessing(payload: bytes) -> bytes:
    """Rewrite the file of a graph so that it takes the matrix itself."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_model_from_string(payload)
    graph = model.graph
    [join] = [node for node in graph.node if node.name == f"{_PREFIX}_matrix"]
    core = [node for node in graph.node if not node.name.startswith(_PREFIX)]
    kept = [tensor for tensor in graph.initializer if not tensor.name.startswith(_PREFIX)]
    del graph.node[:], graph.input[:], graph.initializer[:]
    graph.node.extend(core)
    graph.initializer.extend(kept)
    graph.input.append(helper.make_tensor_value_info(join.output[0], TensorProto.FLOAT, ["rows", len(join.input)]))
    return bytes(model.SerializeToString())


_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}
# Rows per call: intermediate layers stay in the second-level cache.
_ROWS_PER_CALL = 4096


def _pack(model: StoredModel) -> "PackedModel | str":
    flavour, signature = model.flavours["onnx"], model.signature
    payload = _graph_with_weights(model.path / flavour["data"])
    if ENCODING in model.metadata:
        payload = remove_preprocessing(payload)
    declared = flavour.get("onnx_session_options") or {}
    options = {
        "providers": [name for name in flavour.get("providers") or () if isinstance(name, str)],
        "session_config": declared.get("extra_session_config") or {},
    }
    session = onnx_session(payload, options)
    takes, returns = session.get_inputs(), session.get_outputs()
    if any(tensor.type not in _TYPES for tensor in takes):
        return f"takes {takes[0].type}"
    if any(not tensor.type.startswith("tensor(") for tensor in returns):
        return "returns something else than plain tensors"
    if len(takes) > 1 and {tensor.name for tensor in takes} != set(signature.inputs):
        return f"takes {len(takes)} tensors that are not the signature's columns"
    if any(len(tensor.shape) > 2 for tensor in takes):
        return f"takes a tensor of {len(takes[0].shape)} dimensions"
    by_name = {tensor.name for tensor in returns}
    names = [column.name for column in model.outputs]
    fetches = names if set(names) <= by_name else [tensor.name for tensor in returns]
    if len(fetches) != len(names):
        return f"returns {len(fetches)} tensors for {len(names)} outputs"
    order = signature.inputs if len(takes) > 1 else (takes[0].name,)
    tensors = {tensor.name: tensor for tensor in takes}
    feeds = [(name, _TYPES[tensors[name].type], len(tensors[name].shape)) for name in order]
    width = takes[0].shape[1] if len(takes) == 1 and isinstance(takes[0].shape[1], int) else signature.width
    dtype = feeds[0][1] if len({kind for _, kind, _ in feeds}) == 1 else "float64"
    spec = new_spec("onnx", signature, dtype, {**options, "feeds": feeds, "fetches": fetches})
    return PackedModel(
        replace(spec, width=width), payload, "the model has an ONNX flavour; workers import ONNX Runtime only"
    )


def _graph_with_weights(file: Path) -> bytes:
    # Weights may lie in a file of their own beside the graph.
    raw = file.read_bytes()
    if b"location" not in raw:
        return raw
    import onnx

    model = onnx.load(str(file))
    onnx.external_data_helper.convert_model_from_external_data(model)
    return model.SerializeToString()


def _load(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
    session = onnx_session(payload(), spec.options)
    feeds: list[tuple[str, str, int]] = [tuple(feed) for feed in spec.options["feeds"]]
    names: list[str] = list(spec.options["fetches"])

    def run(matrix: np.ndarray) -> list[np.ndarray]:
        if len(matrix) <= _ROWS_PER_CALL:
            return session.run(names, _feed(feeds, matrix))
        parts = [
            session.run(names, _feed(feeds, matrix[first : first + _ROWS_PER_CALL]))
            for first in range(0, len(matrix), _ROWS_PER_CALL)
        ]
        return [np.concatenate(values) for values in zip(*parts, strict=True)]

    return MatrixKernel(spec, run)


def _feed(feeds: list[tuple[str, str, int]], matrix: np.ndarray) -> dict[str, np.ndarray]:
    if len(feeds) == 1:
        return {feeds[0][0]: matrix}
    return {
        name: cast_numbers(np.ascontiguousarray(matrix[:, i : i + 1] if rank == 2 else matrix[:, i]), dtype, name)
        for i, (name, dtype, rank) in enumerate(feeds)
    }


def onnx_session(model: bytes, options: Mapping[str, Any]) -> Any:
    """An ONNX Runtime session with one thread, quiet, with the providers that the model was logged with."""
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = 3
    for key, value in options.get("session_config", {}).items():
        session_options.add_session_config_entry(key, str(value))
    providers = [name for name in options.get("providers", ()) if name in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(model, session_options, providers=providers or ["CPUExecutionProvider"])


RUNTIME = Runtime("onnx", "onnx", ("onnxruntime",), _pack, _load)
