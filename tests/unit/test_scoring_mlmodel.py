"""An MLmodel file says what a model takes and returns, as MLflow writes it, without importing MLflow."""

import subprocess
import sys
from pathlib import Path

import pytest

from forecache.base.errors import InputError, NotFoundError
from forecache.models.inference.environment import describe_model
from forecache.models.inference.kernel_spec import OutputColumn
from forecache.models.inference.signature import Signature, read_signature

COLUMNS = """
flavors:
  onnx: {data: model.onnx, onnx_version: 1.19.0}
  python_function: {loader_module: mlflow.onnx}
metadata: {forecache.bounds: [0, 1]}
signature:
  inputs: '[{"type": "float", "name": "a", "required": true}, {"type": "long", "name": "b", "required": true}]'
  outputs: '[{"type": "double", "name": "p", "required": true}, {"type": "string", "name": "label", "required": true},
    {"type": "array", "items": {"type": "float"}, "name": "v", "required": true}]'
  params: null
"""
TENSORS = """
flavors: {pytorch: {}}
signature:
  inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 5]}}]'
  outputs: '[{"name": "p", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 1]}},
    {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 3]}}]'
"""


def read(folder: Path, text: str) -> Signature:
    (folder / "MLmodel").write_text(text)
    model = describe_model(folder)
    return read_signature(model.inputs, model.outputs)


def test_columns_keep_their_names_types_and_order(tmp_path: Path) -> None:
    found = read(tmp_path, COLUMNS)
    assert (found.inputs, found.input_types, found.tensor, found.width) == (("a", "b"), ("float", "bigint"), None, 2)
    floats = OutputColumn("v", "float", -1)
    assert found.outputs == (OutputColumn("p", "double"), OutputColumn("label", "string"), floats)
    model = describe_model(tmp_path)
    assert model.flavours["onnx"]["data"] == "model.onnx"
    assert model.metadata == {"forecache.bounds": [0, 1]}


def test_a_tensor_says_its_type_and_width(tmp_path: Path) -> None:
    found = read(tmp_path, TENSORS)
    assert (found.inputs, found.tensor, found.width) == ((), "float32", 5)
    assert found.outputs == (OutputColumn("p", "float"), OutputColumn("output_1", "double", 3))


def test_no_signature_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, "flavors: {}") == Signature((), (), None, None, None)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ('[{"type": "object", "properties": {}, "name": "o"}]', "'o' has the type object"),
        ('[{"type": "tensor", "tensor-spec": {"dtype": "str", "shape": [-1]}}]', "'prediction' is a str"),
        ('[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2, 2]}}]', r"shape \(-1, 2, 2\)"),
    ],
)
def test_an_output_that_no_column_carries_is_refused(tmp_path: Path, outputs: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, f"flavors: {{}}\nsignature: {{inputs: null, outputs: '{outputs}'}}")


def test_a_folder_without_a_model_and_a_broken_file_say_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no MLflow model"):
        describe_model(tmp_path)
    for broken in ("flavors: [", "just text", "signature: {inputs: '[', outputs: null}\nflavors: {}", "{}"):
        (tmp_path / "MLmodel").write_text(broken)
        with pytest.raises(InputError, match="describes no MLflow model"):
            describe_model(tmp_path)


def test_planning_a_model_in_a_folder_leaves_mlflow_out(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(COLUMNS)
    program = (
        "import sys\nfrom forecache.models.inference.choose_runtime import plan_scoring\n"
        "plan_scoring(sys.argv[1], runtime='pyfunc')\n"
        "print([name for name in ('mlflow', 'torch', 'pandas', 'pyspark') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
