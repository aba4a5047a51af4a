"""An output of a model by its name, for features in the model's order."""

import numpy as np
import pyarrow as pa

from forecache.errors import CheckError, InputError
from forecache.inference.kernel_spec import KernelSpec
from forecache.inference.runtimes.runtime import Kernel


def score_values(kernel: Kernel, spec: KernelSpec, features: list[pa.Array], output: str) -> np.ndarray:
    """An output of the model for a batch of feature columns in the model's order, float [n].

    Raises:
        InputError: The model has several outputs and none of that name.
        CheckError: The model returned other rows than it was given.
    """
    position, rows = output_position(spec, output), len(features[0])
    values = np.asarray(kernel.run(features)[position])
    if values.size != rows:
        raise CheckError(
            f"The model returned {values.size} values of {output!r} for {rows} rows.",
            remedy="A model must return one prediction for each row.",
        )
    return values.reshape(rows)


def output_position(spec: KernelSpec, output: str) -> int:
    """Where a pipeline's output is among a model's: the only one, whatever it is called, or the one of that name.

    Raises:
        InputError: The model has several outputs and none of that name.
    """
    names = [column.name for column in spec.outputs]
    if spec.shape != "struct":
        return 0
    if output not in names:
        raise InputError(
            f"The model returns {', '.join(names)}, and the pipeline's output is called {output!r}.",
            remedy="Declare one of the model's as the output, or log the model with one of that name.",
        )
    return names.index(output)
