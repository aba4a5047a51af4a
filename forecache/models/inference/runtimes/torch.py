"""torch: models saved as an exported program (pt2) that takes one matrix."""

from collections.abc import Callable

import numpy as np

from forecache.base.errors import CheckError
from forecache.models.inference.arrays import run_in_blocks
from forecache.models.inference.kernel_spec import KernelSpec, pickle_allowed
from forecache.models.inference.runtimes.exported import load_exported, refuse_code
from forecache.models.inference.runtimes.runtime import (
    Kernel,
    MatrixKernel,
    PackedModel,
    Runtime,
    StoredModel,
    new_spec,
)


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
