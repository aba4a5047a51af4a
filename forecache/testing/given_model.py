"""A model that a test gives in place of the one that a declaration trains or applies, as a kernel."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from forecache.base.errors import InputError
from forecache.declare import FunctionModel, SqlModel, Trainable
from forecache.models.inference.kernel import load_kernel, new_kernel
from forecache.models.inference.kernel_spec import OUTPUTS, KernelSpec
from forecache.models.inference.runtimes.function import FunctionKernel
from forecache.models.inference.runtimes.runtime import Kernel, MatrixKernel, Predict
from forecache.models.registry.applied.scoring_plan import plan_declared, spec_of_outputs

GIVEN = "given"
"""The runtime of a given model, and its name in answers."""


def open_given_model(declared: Trainable, model: Any) -> tuple[Kernel, KernelSpec]:
    """The kernel of a model, and its specification.

    Args:
        model: A fitted estimator with `predict_proba` or `predict`, which gets the features as a float32 matrix; or a
            function like that of `FunctionModel`; None: the declared function or SQL expression.

    Raises:
        InputError: It is None and the declared model is not a function or SQL; or it is neither estimator nor function.
    """
    inputs, outputs = declared.feature_names, declared.output_specs
    if model is None:
        if not isinstance(declared.model, FunctionModel | SqlModel):
            raise InputError(
                f"The model of {declared.inline_name} is a `{type(declared.model).__name__}`, which is not here.",
                remedy="Give `model`: a fitted estimator, or a function of the features.",
            )
        plan = plan_declared(declared.model, code=declared.fingerprints.training, inputs=inputs, outputs=outputs)
        return load_kernel(plan.spec, lambda: plan.payload, tempfile.gettempdir), plan.spec
    is_estimator = hasattr(model, "predict")
    if not is_estimator and not callable(model):
        raise InputError(
            f"The model is a {type(model).__name__}.", remedy="Give a fitted estimator, or a function of the features."
        )
    classes = tuple(map(str, getattr(model, "classes_", ())))
    stored = [
        asdict(replace(each, classes=each.classes or classes) if each.kind == "classes" else each) for each in outputs
    ]
    # A model that is trained has its outputs in its metadata, by which its values are clipped and its classes known.
    options = {OUTPUTS: stored} if is_estimator or declared.is_trained else {}
    spec = spec_of_outputs(GIVEN, GIVEN, inputs=inputs, outputs=outputs, options=options)

    def load(spec: KernelSpec, payload: Callable[[], bytes], folder: Callable[[], str]) -> Kernel:
        if is_estimator:
            predict = _predict_function(model, outputs[0].kind)
            return MatrixKernel(spec, lambda matrix: [predict(matrix)])
        return FunctionKernel(model, getattr(model, "__name__", GIVEN), spec)

    return new_kernel(spec, lambda: b"", tempfile.gettempdir, load=load), spec


def _predict_function(model: Any, kind: str) -> Predict:
    """Probabilities of all classes, of the second one for a number, or predictions."""

    def predict(matrix: np.ndarray) -> np.ndarray:
        if not hasattr(model, "predict_proba"):
            return np.asarray(model.predict(matrix))
        shares = np.asarray(model.predict_proba(matrix))
        return shares if kind == "classes" else shares[:, 1]

    return predict
