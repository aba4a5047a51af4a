"""torch: models saved as an exported program (pt2) that takes one matrix, whose loading runs no code of the file.

`torch.export.load` unpickles entries without restriction (those marked `use_pickle`, constants that are no tensors, and
sample inputs that its restricted unpickler refused), loads compiled libraries, and evaluates two kinds of text of the
program: symbolic sizes, by sympy, and guards. So an archive is checked first, and refused if it has anything that is
not known to be data. Imports torch inside functions only.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from forecache.base.errors import CheckError
from forecache.models.inference.arrays import run_in_blocks
from forecache.models.inference.kernel_spec import KernelSpec, pickle_allowed
from forecache.models.inference.runtimes.runtime import (
    Kernel,
    MatrixKernel,
    PackedModel,
    Runtime,
    StoredModel,
    new_spec,
)

_ENTRIES = re.compile(
    r"[^/]+/(?:"
    r"data/weights/(?:weight_\d+|\w+_weights_config\.json)"
    r"|data/constants/(?:tensor_\d+|\w+_constants_config\.json)"
    r"|data/sample_inputs/model\.pt"
    r"|models/model\.json"
    r"|archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id"
    r")"
)
_OPERATORS = re.compile(
    r"torch\.ops\.(?:aten|prims|higher_order)\.\w+(?:\.\w+)?|_operator\.[a-z_]+|math\.[a-z0-9_]+|torch\.sym_[a-z_]+"
)
_WRITES_FILES = "torch.ops.aten.from_file"
_SYMBOLIC = frozenset(
    {
        *("Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "Identity"),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "FloorDiv", "CleanDiv", "CeilDiv", "PythonMod"),
        *("ModularIndexing", "IntTrueDiv", "FloatTrueDiv", "TruncToInt", "CeilToInt", "FloorToInt", "RoundToInt"),
    }
)
_EXPRESSION = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.UnaryOp, ast.BinOp, ast.Compare, ast.BoolOp),
    *(ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.Call, ast.keyword),
)
_GUARD = (*_EXPRESSION, ast.Subscript, ast.Attribute, ast.Tuple)


def load_exported(payload: bytes) -> Any:
    """The program's module.

    Raises:
        CheckError: The archive holds something that would run code when it is loaded.
    """
    import torch

    refuse_code(payload)
    return torch.export.load(io.BytesIO(payload)).module()


def refuse_code(payload: bytes) -> None:
    """Refuse an archive that holds more than tensors and a program of torch's own operators; see `load_exported`."""
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            what = next(_objections(archive), "")
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, SyntaxError, RecursionError) as error:
        what = f"cannot be read: {type(error).__name__} {error}"
    if what:
        raise CheckError(
            f"The exported program {what}: loading it could run code of the file.",
            remedy="Export the network again with torch.export.save, from torch's own operators and tensors only.",
        )


def _objections(archive: zipfile.ZipFile) -> Iterator[str]:
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    if len(set(names)) != len(names):
        yield "has an entry twice"
    for name in names:
        if not _ENTRIES.fullmatch(name):
            yield f"has the entry {name!r}, which is neither a tensor nor the program"
    for name in names:
        if name.endswith("_config.json"):
            for key, entry in json.loads(archive.read(name))["config"].items():
                if entry["use_pickle"] or not re.fullmatch(r"(?:weight|tensor)_\d+", entry["path_name"]):
                    yield f"keeps {key!r} as a pickle"
        elif name.endswith("/data/sample_inputs/model.pt"):
            yield from _check_sample_inputs(archive.read(name))
        elif name.endswith("/models/model.json"):
            program = json.loads(archive.read(name))
            for guard in program.get("guards_code") or ():
                if not _is_data(guard, _GUARD, calls=frozenset()):
                    yield f"has the guard {guard!r}"
            yield from _check_texts(program)


def _check_sample_inputs(content: bytes) -> Iterator[str]:
    import torch

    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (torch.export.load takes any of them as a reason to unpickle everything)
        yield f"has sample inputs that are no tensors ({str(error).splitlines()[0]})"


def _check_texts(value: Any) -> Iterator[str]:
    """Objections to the texts of a program that are evaluated, and to its operators."""
    if isinstance(value, list):
        for item in value:
            yield from _check_texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "expr_str" and not _is_data(item, _EXPRESSION, calls=_SYMBOLIC):
                yield f"has the size {item!r}"
            elif key == "target" and "inputs" in value and "outputs" in value:
                if not _OPERATORS.fullmatch(item) or item.startswith(_WRITES_FILES):
                    yield f"calls {item!r}"
            else:
                yield from _check_texts(item)


def _is_data(text: str, allowed: tuple[type, ...], *, calls: frozenset[str]) -> bool:
    """True if a text is an expression of these kinds of nodes that calls only these functions."""
    for node in ast.walk(ast.parse(text, mode="eval")):
        if not isinstance(node, allowed):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in calls):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not re.fullmatch(r"\w+", node.value):
            return False
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            return False
    return True


def _pack(model: StoredModel) -> "PackedModel | str":
    file = model.path / model.flavours["pytorch"].get("model_data", "data") / "model.pt2"
    if not file.is_file():
        return "is not saved as an exported program (pt2)"
    try:
        refuse_code(file.read_bytes())
    except CheckError:
        if pickle_allowed():
            return "holds more than tensors and torch's own operators"
        raise
    if model.signature.tensor != "float32":
        return "does not take one float32 matrix"
    if len(model.outputs) != 1:
        return f"has {len(model.outputs)} outputs"
    return PackedModel(
        new_spec("torch", model.signature, "float32", {}),
        file.read_bytes(),
        "the model has a torch flavour saved as an exported program; workers import torch only",
    )


def _load(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
    import torch

    torch.set_num_threads(1)
    module = load_exported(payload())

    def run_block(block: np.ndarray) -> list[np.ndarray]:
        # The Arrow buffer is read-only and torch does not write into its input here.
        result = module(torch.from_numpy(block if block.flags.writeable else block.copy()))
        return [tensor.numpy() for tensor in (result if isinstance(result, (tuple, list)) else (result,))]

    def run(matrix: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return run_in_blocks(matrix, run_block)

    return MatrixKernel(spec, run)


RUNTIME = Runtime("torch", "pytorch", ("torch",), _pack, _load)
