"""A model gives a matrix the bits that it gives the same features as Arrow arrays."""

from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
from ranking_code import transforms
from release_support import lightgbm_trees, onnx_network, released_model

from forecache.base.errors import InputError
from forecache.base.output_kinds import OutputSpec
from forecache.models.inference.arrays import from_numpy
from forecache.models.inference.kernel import new_kernel
from forecache.models.inference.kernel_spec import OUTPUTS
from forecache.models.inference.runtimes import function

NAMES = tuple("abcde")


def matrix_of(rows: int) -> np.ndarray:
    matrix = np.random.default_rng(rows).normal(size=(rows, len(NAMES))).astype(np.float32)
    matrix[::3, 1], matrix[::4, 2] = np.nan, -0.0
    return matrix


@pytest.mark.parametrize("runtime", ["onnx", "lightgbm", "function"])
@pytest.mark.parametrize("bounds", [{}, {"minimum": -0.1, "maximum": 0.3}])
@pytest.mark.parametrize("rows", [1, 50, 1500])
def test_a_matrix_gives_the_bits_that_arrow_arrays_give(runtime: str, bounds: dict[str, float], rows: int) -> None:
    payload = {
        "onnx": lambda: onnx_network(len(NAMES)),
        "lightgbm": lambda: lightgbm_trees(len(NAMES)),
        "function": lambda: function.pack("ranking_code.transforms:two_thirds", "tests"),
    }[runtime]()
    spec = released_model(runtime, NAMES, payload).spec
    if bounds:
        spec = replace(spec, options={**spec.options, OUTPUTS: [asdict(OutputSpec("score", "number", **bounds))]})
    load = None
    if runtime == "function":
        load = lambda spec, *_: function.FunctionKernel(transforms.two_thirds, "two_thirds", spec)  # noqa: E731
    kernel = new_kernel(spec, lambda: payload, str, load=load)
    matrix = matrix_of(rows)
    arrays: list[pa.Array] = [from_numpy(np.ascontiguousarray(matrix[:, i])) for i in range(len(NAMES))]
    (of_arrays,), (of_matrix,) = kernel.run(arrays), kernel.run_matrix(matrix)
    assert of_arrays.dtype == of_matrix.dtype
    assert of_arrays.tobytes() == of_matrix.tobytes()
    if bounds:
        assert (of_matrix[~np.isnan(of_matrix)] <= 0.3).all()


def test_a_matrix_of_another_width_is_refused() -> None:
    payload = onnx_network(len(NAMES))
    kernel = new_kernel(released_model("onnx", NAMES, payload).spec, lambda: payload, str)
    with pytest.raises(InputError, match="takes 5 features and was given 4"):
        kernel.run_matrix(matrix_of(3)[:, :4])
