"""The runtimes, in the order in which a model is offered to them: those of plug-ins between ONNX and torch."""

from functools import cache

from forecache.base.errors import UnavailableError
from forecache.base.plugins import find_hooks
from forecache.models.inference.runtimes import function, onnx, pyfunc, sql, torch
from forecache.models.inference.runtimes.runtime import FUNCTION, SQL, Load, Runtime


@cache
def find_runtimes() -> dict[str, Runtime]:
    """The runtimes by name; their libraries are imported only with a model that needs them."""
    added = [runtime for runtimes in find_hooks("runtimes") for runtime in runtimes]
    return {runtime.name: runtime for runtime in (onnx.RUNTIME, *added, torch.RUNTIME, pyfunc.RUNTIME)}


@cache
def find_loaders() -> dict[str, Load]:
    """Loaders of models by `KernelSpec.runtime`: those of the runtimes, and of models declared as function or SQL."""
    return {**{name: each.load for name, each in find_runtimes().items()}, FUNCTION: function.load, SQL: sql.load}


def find_loader(runtime: str) -> Load:
    """The loader of a model by `KernelSpec.runtime`.

    Raises:
        UnavailableError: The plug-in with this runtime is not installed.
    """
    found = find_loaders().get(runtime)
    if found is None:
        raise UnavailableError(
            f"This installation of Forecache has no runtime {runtime!r}, which the model was packed for.",
            remedy="Install Forecache with its folder forecache/plugins/estimators.",
        )
    return found
