"""Check that a declared function takes its arguments and can be imported by name in another process."""

import inspect
import sys
from types import FunctionType
from typing import Any

from forecache.base.errors import SettingsError
from forecache.declare.checks.fields import check_value


def check_importable(owner: str, name: str, function: Any, *, by: str) -> None:
    """Refuse a function that cannot be imported by name from a module.

    Args:
        name: Of the declared field.
        by: The reason in the message, such as "Workers import it".
    """
    module, qualified = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in qualified.split("."):
        found = getattr(found, part, None)
    # While its module is being imported, a function that is defined after the declaration is not found yet.
    is_named = isinstance(function, FunctionType) and module != "__main__" and qualified.isidentifier()
    importable = is_named and (found is None or found is function)
    rule = f"{by}: define it by `def` in a module of the project, not inside another function."
    check_value(owner, name, function, importable, rule)


def check_arguments(owner: str, name: str, function: Any, *arguments: str) -> None:
    """Refuse a function that does not take these positional arguments.

    Args:
        name: Of the declared field.
        arguments: Their names in the message.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions that are written in C have no signature
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        called = getattr(function, "__name__", type(function).__name__)
        raise SettingsError(
            f"{owner} has {name}={called}, which takes {signature}: {error}.",
            remedy=f"It is called as {called}({', '.join(arguments)}).",
        ) from None


def import_path_of(function: Any) -> str:
    """The import path of a function, `module:name`."""
    return f"{function.__module__}:{function.__qualname__}"
