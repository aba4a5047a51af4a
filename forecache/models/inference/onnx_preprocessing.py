"""Preprocessing nodes of a registered ONNX graph, which make the model's matrix of the features as in the table.

Users who load the model from MLflow pass texts for categories and get the same values as scoring. Scoring itself makes
the matrix with `forecache.models.inference.encoding`, five times as fast (ONNX Runtime takes texts as Python objects
only), and removes these nodes.
"""

from typing import Any

from forecache.models.inference.encoding import FIRST_CODE, NULL_CODE, UNKNOWN_CODE, FeatureEncoding, MatrixEncoding

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
