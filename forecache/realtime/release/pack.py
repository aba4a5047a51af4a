"""Pack the code of a release: the source of the project's modules that its functions use."""

import ast
import re
from collections.abc import Callable, Sequence
from typing import Any

from forecache.base.errors import InputError
from forecache.declare.code.fingerprint import ValueDescriber
from forecache.declare.code.location import is_project_module, source_file
from forecache.declare.code.reach import ReachedCode
from forecache.declare.code.source import parse_module, parse_without_docstrings
from forecache.realtime.release.release_code import packages_above

_IMPORTS_ANYTHING = re.compile(
    r"\b(import_module|__import__|sys\.modules|from sys import modules|resolve_name|module_from_spec|runpy)\b"
)


def pack_code(functions: Sequence[Callable[..., Any]]) -> dict[str, bytes]:
    """Collect the source of all project modules that the functions use, by path: "shop/search.py".

    The packages that contain them are included, as importing a module runs them.

    Raises:
        InputError: A module was changed since it was loaded, has no source, or imports by a computed name.
    """
    reach = ReachedCode()
    describer = ValueDescriber(reach)
    own = {f"{function.__module__}:": describer.describe_declared(function) for function in functions}
    reach.follow_all()
    for key, text in (*own.items(), *reach.pieces.items()):
        # What an import binds stands in the key: "shop.search:load = from importlib import import_module".
        if _IMPORTS_ANYTHING.search(text) or _IMPORTS_ANYTHING.search(key.partition(" = ")[2]):
            raise InputError(
                f"The code of a release imports by a name that it makes up, in {key.partition(':')[0]}.",
                remedy="Import modules by their names, so that all of them can be packed.",
            )
    modules = {key.partition(":")[0] for key in reach.pieces}
    modules |= {above for name in modules for above in packages_above(name)}
    found = {}
    for module in sorted(filter(is_project_module, modules)):
        source = _read_source(module)
        if source is not None:
            path, content = source
            found[path] = content
    return found


def _read_source(module: str) -> tuple[str, bytes] | None:
    """Read the path and content of a module's file; None for a package without one."""
    file = source_file(module)
    if file is None:
        return None
    path = module.replace(".", "/")
    path = f"{path}/__init__.py" if file.name == "__init__.py" else f"{path}.py"
    known = parse_module(module)
    if known is None or not file.is_file():
        raise InputError(
            f"The module {module} has no source in a file of its own: {file}.",
            remedy="A release holds plain Python: write what the transform needs in a .py file.",
        )
    content = file.read_bytes()
    if ast.unparse(parse_without_docstrings(content)) != known.text_of(known.tree):
        raise InputError(f"The module {module} was changed since it was loaded.", remedy="Start the process again.")
    return path, content
