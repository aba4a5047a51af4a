"""The runtimes, in the order in which a model is offered to them: one file and one line each."""

from forecache.inference.runtimes import lightgbm, onnx, pyfunc, sklearn, torch, xgboost
from forecache.inference.runtimes.runtime import Runtime

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        onnx.RUNTIME,
        lightgbm.RUNTIME,
        xgboost.RUNTIME,
        sklearn.RUNTIME,
        torch.RUNTIME,
        pyfunc.RUNTIME,
    )
}
