"""Parse a module's source: the statements that bind each name, its imports, and its other import-time statements."""

import ast
import builtins
import symtable
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forecache.declare.code.location import source_file

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_COMPOUND = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.With, ast.AsyncWith)
BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__", "__package__", "__spec__", "__path__"}


@dataclass(frozen=True)
class ImportedName:
    """One name that an import statement binds: a module, or an attribute of one."""

    module: str
    attribute: str | None = None

    @property
    def text(self) -> str:
        return f"import {self.module}" if self.attribute is None else f"from {self.module} import {self.attribute}"


@dataclass
class SourceModule:
    name: str
    tree: ast.Module
    is_package: bool
    # For each name of the module, the statements that assign it.
    bindings: dict[str, list[ast.stmt]] = field(default_factory=dict)
    # For each name that the module imports, the module or attribute that it refers to.
    imports: dict[str, list[ImportedName]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)  # modules that everything is imported from (`import *`)
    effects: list[ast.stmt] = field(default_factory=list)  # statements at module level that do more than bind names
    imported: list[str] = field(default_factory=list)  # modules that this one imports
    # Names that a function assigns (`global`), so that their value may differ from the source.
    rebound: set[str] = field(default_factory=set)
    _texts: dict[ast.AST, str] = field(default_factory=dict)

    def text_of(self, node: ast.AST) -> str:
        """The source of a node of the module, without comments, docstrings and formatting."""
        if node not in self._texts:
            self._texts[node] = ast.unparse(node)
        return self._texts[node]


_parsed: dict[str, tuple[object, SourceModule | None]] = {}


def parse_module(name: str) -> SourceModule | None:
    """The parsed module of a name, cached as of its first use after the import; None if there is no source."""
    file = source_file(name)
    if file is None or file.suffix != ".py":
        return None
    # A loaded module runs the source that it was loaded from, even if the file has changed since.
    state: object = sys.modules.get(name) or (file, file.stat().st_mtime_ns, file.stat().st_size)
    known = _parsed.get(name)
    if known is None or known[0] != state:
        known = _parsed[name] = (state, _read_module(name, file))
    return known[1]


def _read_module(name: str, file: Path) -> SourceModule | None:
    try:
        tree = parse_without_docstrings(_read_source(name, file))
    except (OSError, SyntaxError, ValueError):
        return None
    module = SourceModule(name, tree, file.name == "__init__.py")
    _collect_statements(module, tree.body)
    for statement in tree.body:
        for node in ast.walk(statement):
            for name in node.names if isinstance(node, ast.Global) else ():
                module.rebound.add(name)
                module.bindings.setdefault(name, []).append(statement)
    return module


def parse_without_docstrings(source: str | bytes) -> ast.Module:
    """Parse a module's source into a tree without docstrings; raises as `ast.parse` does."""
    tree: ast.Module = _DocstringRemover().visit(ast.parse(source))
    return tree


def _read_source(name: str, file: Path) -> str | bytes:
    if file.is_file():
        return file.read_bytes()
    # The source of a module inside an archive comes from its loader.
    read = getattr(getattr(sys.modules.get(name), "__loader__", None), "get_source", None)
    return (read(name) if read is not None else None) or ""


def _collect_statements(module: SourceModule, statements: Sequence[ast.stmt], outer: ast.stmt | None = None) -> None:
    for statement in statements:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            add_imports(statement, module, module.imports, module.stars)
            module.imported += [found.module for found in _imported_modules(statement, module)]
            continue
        if _is_never_run(statement):
            _collect_statements(module, getattr(statement, "orelse", []), outer)
            continue
        for name in _names_bound_by(statement):
            module.bindings.setdefault(name, []).append(outer or statement)
        if isinstance(statement, _COMPOUND):
            for block in _blocks(statement):
                _collect_statements(module, block, outer or statement)
        if outer is None and not _is_binding_only(statement):
            module.effects.append(statement)


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    yield getattr(statement, "body", [])
    yield getattr(statement, "orelse", [])
    yield getattr(statement, "finalbody", [])
    for handler in getattr(statement, "handlers", []):
        yield handler.body


def _is_never_run(statement: ast.stmt) -> bool:
    """True for `if TYPE_CHECKING:` and `if __name__ == "__main__":`, whose bodies an import does not run."""
    if not isinstance(statement, ast.If):
        return False
    test = ast.unparse(statement.test)
    return test in ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")


def _is_binding_only(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.Assign):
        return all(_is_name(target) for target in statement.targets)
    if isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        return isinstance(statement.target, ast.Name)
    if isinstance(statement, _COMPOUND):
        return _is_never_run(statement) or all(_is_binding_only(s) for block in _blocks(statement) for s in block)
    return isinstance(
        statement, (ast.Import, ast.ImportFrom, ast.ClassDef, ast.Pass, ast.FunctionDef, ast.AsyncFunctionDef)
    )


def _is_name(target: ast.expr) -> bool:
    if isinstance(target, (ast.Tuple, ast.List)):
        return all(_is_name(element) for element in target.elts)
    return isinstance(target, ast.Name) or (isinstance(target, ast.Starred) and _is_name(target.value))


def _names_bound_by(statement: ast.stmt) -> set[str]:
    """Names that a statement binds, without those bound in the blocks of a compound statement."""
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return {statement.name}
    if isinstance(statement, _COMPOUND):
        parts = (getattr(statement, name, None) for name in ("target", "test", "iter"))
        heads = [*(part for part in parts if part is not None), *getattr(statement, "items", [])]
        return {name for head in heads for name in _assigned_names(head)}
    return _assigned_names(statement)


def _assigned_names(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Lambda):
        return set()
    if isinstance(node, ast.comprehension):
        return {name for inner in (node.iter, *node.ifs) for name in _assigned_names(inner)}
    found = {node.id} if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) else set()
    return found.union(*(_assigned_names(child) for child in ast.iter_child_nodes(node)))


def add_imports(
    statement: ast.Import | ast.ImportFrom, module: SourceModule, names: dict[str, list[ImportedName]], stars: list[str]
) -> None:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            bound = alias.asname or alias.name.partition(".")[0]
            names.setdefault(bound, []).append(ImportedName(alias.name if alias.asname else bound))
        return
    origin = _origin_module(statement, module)
    for alias in statement.names:
        if alias.name == "*":
            stars.append(origin)
        else:
            names.setdefault(alias.asname or alias.name, []).append(ImportedName(origin, alias.name))


def _imported_modules(statement: ast.Import | ast.ImportFrom, module: SourceModule) -> list[ImportedName]:
    if isinstance(statement, ast.Import):
        return [ImportedName(alias.name) for alias in statement.names]
    origin = _origin_module(statement, module)
    return [ImportedName(origin), *(ImportedName(f"{origin}.{alias.name}") for alias in statement.names)]


def _origin_module(statement: ast.ImportFrom, module: SourceModule) -> str:
    if not statement.level:
        return statement.module or ""
    parts = module.name.split(".")
    package = parts[: len(parts) - statement.level + module.is_package]
    return ".".join([*package, *([statement.module] if statement.module else [])])


class _DocstringRemover(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, _DOCUMENTED):
            node.body = [s for s in node.body if not _is_text(s)] or [ast.Pass()]
        return node


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


_LOOKS_ANYWHERE = {"eval", "exec", "globals"}
_IMPORTS_ANYTHING = {"__import__", "import_module"}


@dataclass(frozen=True)
class UsedNames:
    """The names outside of a syntax node that the node refers to."""

    # Names of the module with the attributes that are read of each: `helpers.rates.daily` is ("helpers", ("rates",
    # "daily")), and `helpers` alone is ("helpers", ()).
    names: frozenset[tuple[str, tuple[str, ...]]]
    imports: frozenset[tuple[ImportedName, tuple[str, ...]]]  # the same for the imports inside the node
    stars: frozenset[str]  # modules that it imports everything from (`import *`)
    whole_module: bool  # it looks up names at run time (`eval`, `globals`), so it may use any name of its module
    whole_project: bool  # it imports modules by names computed at run time, so it may use any module


def find_used_names(module: SourceModule, node: ast.AST, *, bound: frozenset[str] = frozenset()) -> UsedNames:
    """Find the names that a node of a module uses, but those `bound` by the enclosing scope, such as by a closure."""
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
