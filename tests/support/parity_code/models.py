"""A model whose score is one feature, so that a reader's answers show every bit of what a transform returned."""

import numpy as np

NOT_A_NUMBER = np.float32(3.3e38)
"""The score of a feature that is NaN; a reader takes a score of NaN for none."""


def chosen_feature(width: int) -> bytes:
    """`features` float32 [n, width] -> `score` float32 [n, 1]: the feature whose place is in the last column."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = [numpy_helper.from_array(np.array([width - 1]), "last")]
    constants.append(numpy_helper.from_array(np.array([NOT_A_NUMBER]), "instead"))
    nodes = [
        helper.make_node("Gather", ["features", "last"], ["chosen"], axis=1),
        helper.make_node("Cast", ["chosen"], ["place"], to=TensorProto.INT64),
        helper.make_node("GatherElements", ["features", "place"], ["feature"], axis=1),
        helper.make_node("IsNaN", ["feature"], ["unknown"]),
        helper.make_node("Where", ["unknown", "instead", "feature"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chosen",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
