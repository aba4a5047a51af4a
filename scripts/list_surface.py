"""List what users of a tree see, as sorted lines to compare: `python scripts/list_surface.py [FOLDER] > surface.txt`.

One line for each promise, command and option, route, setting, metric, public declaration with its fields and methods,
table, and error with its exit code and status. The lines name no module, so moving code changes none of them:

    git worktree add ../before v1.0
    python scripts/list_surface.py ../before > before.txt; python scripts/list_surface.py . > after.txt
    diff before.txt after.txt
"""

import ast
import dataclasses
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomllib

_ROUTE = re.compile(r"/(v\d.*|versions/.*|healthz?|readyz|metrics|status(\.json)?|openapi\.json|ping|version)")
_ROUTE_WORDS = ("/invocations", "/get-online-features")


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    sys.path.insert(0, str(root))
    os.chdir(root)
    modules = [ast.parse(path.read_text()) for path in sorted((root / "forecache").rglob("*.py"))]
    lines = {
        *_promises(root),
        *_commands(root),
        *_routes(modules),
        *_settings(modules),
        *_metrics(root),
        *_declarations(),
        *_table_names(modules),
        *_tables_of_the_project(),
        *_errors(modules),
    }
    print("\n".join(sorted(lines)))


def _promises(root: Path) -> Iterator[str]:
    """Each promise with the tests that prove it, from the page that lists them."""
    page = next(path for path in (root / "docs/promises.md", root / "tests/promises.md") if path.exists())
    section = ""
    for line in page.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| ") and "`tests/" in line:
            promise, proof = line.strip("| ").split(" | ", 1)
            yield f"promise: {section}: {promise}"
            for test in re.findall(r"`tests/[^`]*::(\w+)`", proof):
                yield f"promise: {section}: {promise}: {test}"


def _commands(root: Path) -> Iterator[str]:
    """Each command with its arguments and options, from the entry point of the package."""
    import click

    script = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]["forecache"]
    group = importlib.import_module(script.partition(":")[0]).cli

    def walk(command: click.Command, path: str) -> Iterator[str]:
        yield f"command: {path}"
        for given in command.params:
            names = "/".join([*given.opts, *given.secondary_opts])
            kind = getattr(given.type, "choices", None) or given.type.name
            default = "" if callable(given.default) else f" default={given.default!r}"
            flags = f"{' required' * given.required}{' multiple' * given.multiple} nargs={given.nargs}"
            # Click says that nothing is given by None or by a mark of its own.
            default = "" if given.default is None or "UNSET" in default.upper() else default
            yield f"command: {path} {names} ({kind}){flags}{default}"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from walk(inner, f"{path} {name}")

    yield from walk(group, "forecache")


def _routes(modules: list[ast.Module]) -> Iterator[str]:
    """Every string of the code that reads as a path of the reader."""
    for node in _nodes(modules, ast.Constant):
        value = node.value.decode("latin1") if isinstance(node.value, bytes) else node.value
        if isinstance(value, str) and " " not in value and (_ROUTE.fullmatch(value) or value in _ROUTE_WORDS):
            yield f"route: {value}"


def _settings(modules: list[ast.Module]) -> Iterator[str]:
    """Each field of the classes of settings, with its type and default."""
    for group in _nodes(modules, ast.ClassDef):
        if not any(ast.unparse(base).endswith("Settings") for base in group.bases):
            continue
        for field in group.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                name, kind = field.target.id, ast.unparse(field.annotation)
                yield f"setting: FORECACHE_{name.upper()}: {kind}{_default(field.value)}"


def _default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "Field":
        limits = [ast.unparse(word) for word in value.keywords if word.arg != "description"]
        return f" = {', '.join([*(ast.unparse(given) for given in value.args), *limits])}"
    return "" if value is None else f" = {ast.unparse(value)}"


def _metrics(root: Path) -> Iterator[str]:
    """Each metric with its kind and labels."""
    [declared] = (root / "forecache").rglob("metrics/declared.json")
    for part in json.loads(declared.read_text()):
        for name, kind, labels, _ in part["metrics"]:
            yield f"metric: {name} {kind} {{{','.join(labels)}}}"


def _declarations() -> Iterator[str]:
    """The public names of the package: classes with their fields and methods, functions with their parameters."""
    package = importlib.import_module("forecache")
    if not hasattr(package, "__all__"):
        package = importlib.import_module("forecache.declare")
    for name in package.__all__:
        yield from _describe(name, getattr(package, name))


def _describe(name: str, value: Any) -> Iterator[str]:
    yield f"declaration: {name}"
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            default = "" if field.default is dataclasses.MISSING else f" = {_plain(field.default)!r}"
            yield f"declaration: {name}.{field.name}: {_plain(field.type)}{default}"
    if inspect.isclass(value):
        for member in dir(value):
            found = inspect.getattr_static(value, member)
            if not member.startswith("_") and isinstance(found, property | staticmethod | classmethod):
                yield f"declaration: {name}.{member}"
            elif not member.startswith("_") and inspect.isfunction(found):
                yield f"declaration: {name}.{member}{_plain(inspect.signature(found))}"
    elif inspect.isfunction(value):
        yield f"declaration: {name}{_plain(inspect.signature(value))}"
    else:
        yield f"declaration: {name} = {_plain(value)}"


def _plain(value: Any) -> str:
    """The text of a value without addresses and without the modules of classes."""
    text = value.__qualname__ if inspect.isclass(value) else str(value)
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", re.sub(r" at 0x[0-9a-f]+", "", text))


def _table_names(modules: list[ast.Module]) -> Iterator[str]:
    """The names of tables that the code writes out: constants, and what a property `..._table` returns."""
    for node in _nodes(modules, ast.Assign):
        named = [target.id for target in node.targets if isinstance(target, ast.Name) and "TABLE" in target.id]
        if named and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield f"table: {node.value.value}"
    for function in _nodes(modules, ast.FunctionDef):
        if function.name.endswith("table"):
            for returned in ast.walk(function):
                if isinstance(returned, ast.Return) and isinstance(returned.value, ast.JoinedStr):
                    yield f"table: {ast.unparse(returned.value)}"


def _tables_of_the_project() -> Iterator[str]:
    """The tables that the declarations of the shipped project name."""
    for path in sorted(Path("dagster_project", "pipelines").glob("[a-z]*.py")):
        for value in vars(importlib.import_module(f"dagster_project.pipelines.{path.stem}")).values():
            for declared in _inner_declarations(value):
                for member in dir(declared):
                    found = getattr(declared, member, None) if member.endswith("table") else None
                    if isinstance(found, str):
                        yield f"table: of the project: {member} {found}"


def _inner_declarations(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _inner_declarations(each)
    elif dataclasses.is_dataclass(value) and not inspect.isclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from _inner_declarations(getattr(value, field.name))


def _errors(modules: list[ast.Module]) -> Iterator[str]:
    """Each class of error with its exit code, title and status."""
    for error in _nodes(modules, ast.ClassDef):
        for field in error.body:
            if isinstance(field, ast.Assign | ast.AnnAssign) and error.name.endswith("Error") and field.value:
                target = field.target if isinstance(field, ast.AnnAssign) else field.targets[0]
                yield f"error: {error.name}.{ast.unparse(target)} = {ast.unparse(field.value)}"


def _nodes(modules: list[ast.Module], kind: type[Any]) -> Iterator[Any]:
    return (node for module in modules for node in ast.walk(module) if isinstance(node, kind))


if __name__ == "__main__":
    main()
