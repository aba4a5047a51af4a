"""A row's prediction does not depend on the rows beside it, and a process loads a model once."""

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scoring_support import network

from forecache.base.errors import CheckError, InputError
from forecache.models.inference.kernel import clip_to_bounds, load_kernel, score_arrays, score_stream
from forecache.models.inference.kernel_spec import KernelSpec, OutputColumn
from forecache.models.inference.known_runtimes import find_loaders
from forecache.models.inference.runtimes.onnx import onnx_session
from forecache.models.inference.runtimes.pyfunc import as_columns

OUTPUT = OutputColumn("probability", "float")


def onnx_spec(width: int = 20, checksum: str = "c", outputs: tuple[OutputColumn, ...] = (OUTPUT,)) -> KernelSpec:
    options = {"providers": [], "feeds": [("x", "float32", 2)], "fetches": ["probability"]}
    return KernelSpec("onnx", checksum, (), width, "float32", outputs, "scalar", options)


@pytest.mark.parametrize(("width", "hidden"), [(20, (64, 32)), (13, (7, 5)), (64, (256,))])
def test_a_prediction_has_the_same_bits_whatever_the_batch(width: int, hidden: tuple[int, ...]) -> None:
    spec = onnx_spec(width, checksum=f"{width}")
    kernel = load_kernel(spec, lambda: network(width, hidden=hidden), str)
    rows = np.random.default_rng(0).standard_normal((9_000, width), dtype=np.float32)
    whole = score_arrays(kernel, spec, [_lists(rows)])
    for size in (1, 2, 3, 5, 7, 16, 63, 1000, 4095, 4097, 8999):
        for first in (0, 1, 17):
            part = rows[first : first + size]
            assert score_arrays(kernel, spec, [_lists(part)]).equals(whole.slice(first, len(part)))


def test_a_model_is_loaded_once_for_all_tasks_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    real = find_loaders()["onnx"]
    monkeypatch.setitem(find_loaders(), "onnx", lambda *given: loads.append(1) or real(*given))
    spec = onnx_spec(checksum="once")
    batch = _lists(np.zeros((3, 20), np.float32))
    for _ in range(3):
        assert len(list(score_stream(spec, network, str, iter([batch, batch])))) == 2
    assert loads == [1]


def test_onnx_runtime_has_one_thread_since_a_task_has_one_core() -> None:
    options = onnx_session(network(), {}).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_an_empty_batch_gives_an_empty_array_of_the_right_type() -> None:
    spec = onnx_spec(checksum="empty")
    result = list(score_stream(spec, network, str, iter([_lists(np.zeros((0, 20), np.float32))])))
    assert result[0].type == pa.float32()
    assert len(result[0]) == 0


def test_more_values_than_declared_are_refused() -> None:
    class Two:
        def run(self, arrays: list[pa.Array]) -> list[np.ndarray]:
            return [np.zeros((len(arrays[0]), 2))]

    with pytest.raises(CheckError, match=r"returned \(2,\) values a row of 'probability', declared as one float"):
        score_arrays(Two(), onnx_spec(), [_lists(np.zeros((3, 20), np.float32))])


def test_fewer_rows_than_given_are_refused() -> None:
    class Short:
        def run(self, arrays: list[pa.Array]) -> list[np.ndarray]:
            return [np.zeros(len(arrays[0]) - 1)]

    with pytest.raises(CheckError, match="returned 2 rows of 'probability' for 3 rows"):
        score_arrays(Short(), onnx_spec(), [_lists(np.zeros((3, 20), np.float32))])


def test_an_onnx_worker_imports_neither_torch_nor_mlflow_nor_pandas() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/support')\n"
        "import numpy as np, pyarrow as pa\n"
        "from forecache.models.inference.kernel import score_stream\n"
        "from forecache.models.inference.kernel_spec import KernelSpec, OutputColumn\n"
        "model = sys.stdin.buffer.read()\n"
        "options = {'providers': [], 'feeds': [('x', 'float32', 2)], 'fetches': ['probability']}\n"
        "out = (OutputColumn('probability', 'float'),)\n"
        "spec = KernelSpec('onnx', 'c', (), 20, 'float32', out, 'scalar', options)\n"
        "flat = pa.Array.from_buffers(pa.float32(), 40, [None, pa.py_buffer(np.zeros(40, np.float32))])\n"
        "rows = pa.FixedSizeListArray.from_arrays(flat, 20)\n"
        "assert len(list(score_stream(spec, lambda: model, str, iter([rows])))[0]) == 2\n"
        "print(sorted({'torch', 'mlflow', 'pandas', 'pyspark', 'pydantic', 'onnx'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=network(), capture_output=True, check=True, timeout=60)
    assert done.stdout.decode().strip() == "[]"


def _lists(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


class Returns:
    """A model that returns what it is told, whatever it is given."""

    def __init__(self, *values: np.ndarray) -> None:
        self.values = list(values)

    def run(self, arrays: list[pa.Array]) -> list[np.ndarray]:
        return self.values


@pytest.mark.parametrize("dtype", ["float32", "float64", "object"])
def test_what_a_model_does_not_know_is_null_and_not_larger_than_every_number(dtype: str) -> None:
    values = np.array([0.5, np.nan], dtype)
    scored = score_arrays(Returns(values), onnx_spec(), [_lists(np.zeros((2, 20), np.float32))])
    assert scored.to_pylist() == [0.5, None]


def test_unknown_words_are_null() -> None:
    spec = onnx_spec(outputs=(OutputColumn("label", "string"),))
    words = np.array(["a", np.nan, None], dtype=object)
    assert score_arrays(Returns(words), spec, [_lists(np.zeros((3, 20), np.float32))]).to_pylist() == ["a", None, None]


def test_moments_without_a_zone_are_in_the_session_s() -> None:
    spec = dataclasses.replace(onnx_spec(outputs=(OutputColumn("t", "timestamp"),)), time_zone="Asia/Tokyo")
    scored = score_arrays(
        Returns(np.array(["1970-01-01T09:00"], "datetime64[ns]")), spec, [_lists(np.zeros((1, 20), np.float32))]
    )
    assert scored.cast(pa.int64()).to_pylist() == [0]


def test_a_process_with_another_version_of_the_runtime_refuses_before_it_loads_the_model() -> None:
    spec = dataclasses.replace(onnx_spec(checksum="another version"), packages={"onnxruntime": "0.1"})
    with pytest.raises(InputError, match=r"has onnxruntime \d.*, and the driver.* has 0\.1"):
        load_kernel(spec, lambda: pytest.fail("the model was asked for"), str)


@pytest.mark.parametrize("rows", [[[1.0], [], [2.0, 3.0]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
def test_lists_of_any_length_are_returned_as_they_are(rows: list[list[float]]) -> None:
    spec = dataclasses.replace(onnx_spec(outputs=(OutputColumn("v", "double", -1),)), shape="array")
    given = [_lists(np.zeros((3, 20), np.float32))]
    for returned in (rows, pd.DataFrame({"v": rows})):
        assert score_arrays(Returns(*as_columns(returned, spec)), spec, given).to_pylist() == rows


def test_limits_that_float32_does_not_have_are_kept_to_from_inside() -> None:
    values = np.array([-1.0, 0.05, 1.0], dtype=np.float32)
    for low, high in [(0.1, 0.7), (-0.7, -0.1), (1e-50, 0.1), (None, 0.1), (0.1, None)]:
        kept = clip_to_bounds(values, (low, high)).astype(np.float64)
        assert low is None or kept.min() >= low
        assert high is None or kept.max() <= high
