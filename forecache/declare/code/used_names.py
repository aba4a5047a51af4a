"""Find the module's names, and the imports of its own, that a piece of source uses."""

import ast
import symtable
from dataclasses import dataclass

from forecache.declare.code.source import BUILTINS, ImportedName, SourceModule, add_imports

_LOOKS_ANYWHERE = {"eval", "exec", "globals"}
_IMPORTS_ANYTHING = {"__import__", "import_module"}


@dataclass(frozen=True)
class UsedNames:
    """The names outside of a syntax node that the node refers to.

    Attributes:
        names: Names of the module with the attributes that are read of each: `helpers.rates.daily` is
            ("helpers", ("rates", "daily")), and `helpers` alone is ("helpers", ()).
        imports: The same for the imports inside the node.
        stars: Modules that it imports everything from (`import *`).
        whole_module: It looks up names at run time (`eval`, `globals`), so it may use any name of its module.
        whole_project: It imports modules by names computed at run time, so it may use any module.
    """

    names: frozenset[tuple[str, tuple[str, ...]]]
    imports: frozenset[tuple[ImportedName, tuple[str, ...]]]
    stars: frozenset[str]
    whole_module: bool
    whole_project: bool


def find_used_names(module: SourceModule, node: ast.AST, *, bound: frozenset[str] = frozenset()) -> UsedNames:
    """Find the names that a node of a module uses.

    Args:
        bound: Names that the enclosing scope defines, such as the variables of a closure.
    """
    chains, text = _attribute_chains(node), module.text_of(node)
    try:
        wanted = _global_names(symtable.symtable(text, "<declaration>", "exec")) - bound
    except SyntaxError:  # `nonlocal` outside of its enclosing function
        wanted = frozenset(name for name, _ in chains) - bound
    own: dict[str, list[ImportedName]] = {}
    stars: list[str] = []
    for inner in ast.walk(node):
        if isinstance(inner, (ast.Import, ast.ImportFrom)):
            add_imports(inner, module, own, stars)
    called = {name for name, _ in chains} | {attributes[-1] for _, attributes in chains if attributes}
    looks_up_modules = any(name == "sys" and attributes[:1] == ("modules",) for name, attributes in chains)
    return UsedNames(
        names=frozenset(chain for chain in chains if chain[0] in wanted),
        imports=frozenset((found, rest) for name, rest in chains for found in own.get(name, ())),
        stars=frozenset(stars),
        whole_module=bool(_LOOKS_ANYWHERE & wanted),
        whole_project=bool(_IMPORTS_ANYTHING & called) or looks_up_modules,
    )


def is_builtin(name: str, module: SourceModule) -> bool:
    return name in BUILTINS and name not in module.bindings and name not in module.imports


def _global_names(table: symtable.SymbolTable) -> frozenset[str]:
    at_top = table.get_type() == "module"
    own = {s.get_name() for s in table.get_symbols() if s.is_global() or (at_top and s.is_referenced())}
    return frozenset(own).union(*(_global_names(child) for child in table.get_children()))


def _attribute_chains(node: ast.AST) -> set[tuple[str, tuple[str, ...]]]:
    """All names in a node, each with the attributes that are read of it."""
    attributes: list[str] = []
    base = node
    while isinstance(base, ast.Attribute):
        attributes.insert(0, base.attr)
        base = base.value
    if isinstance(base, ast.Name):
        return {(base.id, tuple(attributes))}
    return set().union(*(_attribute_chains(child) for child in ast.iter_child_nodes(base)))
