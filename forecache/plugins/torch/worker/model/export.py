"""Export of the trained module: torch pt2 and ONNX with a dynamic number of rows, checked against each other."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from forecache.base.errors import CheckError
from forecache.declare import Trainable
from forecache.models.training.spec import ONNX_FILE, TORCH_FILE
from forecache.plugins.torch.worker.model.model import ExportedModel

INPUT = "features"
_TOLERANCE = 1e-5


def export(model: ExportedModel, pipeline: Trainable, folder: Path, sample: torch.Tensor) -> dict[str, float]:
    """Write `model.pt2` and `model.onnx` (one file each) into the folder and compare them on a sample.

    Args:
        sample: Raw features, float32 [n >= 2, num_features], NaN for unknown.

    Returns:
        `parity_max_abs` and `parity_max_relative`: the largest difference of the two on the sample.

    Raises:
        CheckError: They differ by more than 1e-5 of max(1, |output|).
    """
    model = model.eval().cpu()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = torch.export.Dim("rows", min=1)
        program = torch.export.export(model, (sample[:2],), dynamic_shapes={INPUT: {0: rows}})
        torch.export.save(program, folder / TORCH_FILE)
        torch.onnx.export(
            program,
            (sample[:2],),
            folder / ONNX_FILE,
            dynamo=True,
            external_data=False,
            input_names=[INPUT],
            output_names=[output.name for output in pipeline.outputs],
            verbose=False,
        )
    return _parity(model, folder / ONNX_FILE, sample)


def _parity(model: ExportedModel, onnx: Path, sample: torch.Tensor) -> dict[str, float]:
    from forecache.models.inference.runtimes.onnx import onnx_session

    session = onnx_session(onnx.read_bytes(), {})
    with torch.no_grad():
        returned = model(sample)
    expected = [each.numpy() for each in (returned if isinstance(returned, tuple) else (returned,))]
    pairs = list(zip(session.run(None, {INPUT: sample.numpy()}), expected, strict=True))
    largest = max(float(np.abs(actual - wanted).max()) for actual, wanted in pairs)
    relative = max(float((np.abs(a - e) / np.maximum(1.0, np.abs(e))).max()) for a, e in pairs)
    if not relative <= _TOLERANCE:
        raise CheckError(
            f"The ONNX export differs from the torch module by {relative:.2e} relative on {len(sample)} rows.",
            remedy="Use operators in the network that export exactly, or report the operator to torch.onnx.",
        )
    return {"parity_max_abs": largest, "parity_max_relative": relative}
