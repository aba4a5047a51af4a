"""The runtimes, in the order in which a model is offered to them: one file and one line each."""

from forecache.models.inference.declared import function, sql
from forecache.models.inference.runtimes import lightgbm, onnx, pyfunc, sklearn, skops, torch, xgboost
from forecache.models.inference.runtimes.runtime import FUNCTION, SQL, Load, Runtime

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        onnx.RUNTIME,
        lightgbm.RUNTIME,
        xgboost.RUNTIME,
        sklearn.RUNTIME,
        skops.RUNTIME,
        torch.RUNTIME,
        pyfunc.RUNTIME,
    )
}

LOADERS: dict[str, Load] = {
    **{name: runtime.load for name, runtime in RUNTIMES.items()},
    FUNCTION: function.load,
    SQL: sql.load,
}
"""Loaders of models by `KernelSpec.runtime`: those of the runtimes, and of models declared as function or SQL."""
