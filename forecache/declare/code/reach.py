"""Collect the project's source that a function uses, directly and indirectly.

It follows names, not modules: an edit of another function in the same module changes nothing. If the name is not known
(a star import, `globals()`, a module passed as a value), everything that could be meant is collected.
"""

import ast
import hashlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from forecache.declare.code.location import is_module, is_project_module, package_folders, source_file
from forecache.declare.code.source import ImportedName, SourceModule, find_used_names, is_builtin, parse_module

_WHOLE, _EFFECTS = "*", "import"
Describe = Callable[[Any], str | None]


class ReachedCode:
    """Collects the pieces of source that are used.

    Attributes:
        pieces: By module and name, the text of the statements that define the name.
        describe: Returns the text of a module's value; None if only its source is used.
    """

    def __init__(self) -> None:
        self.pieces: dict[str, str] = {}
        self.describe: Describe = lambda value: None
        self._loaded: set[str] = set()
        self._waiting: list[Callable[[], None]] = []
        self._named: set[tuple[str, str, tuple[str, ...]]] = set()

    def follow_all(self) -> None:
        while self._waiting:
            self._waiting.pop()()

    def mark_loaded(self, module_name: str) -> None:
        """Mark a loaded module, and the project's modules that it imports, as loaded: their values can be read."""
        waiting = [module_name]
        while waiting:
            name = waiting.pop()
            if name in self._loaded or not is_project_module(name):
                continue
            module = parse_module(name)
            self._loaded.add(name)
            waiting += module.imported if module else []

    def reach_name(self, module_name: str, name: str, attributes: tuple[str, ...] = ()) -> None:
        module = self.enter_module(module_name)
        if module is None or (module_name, name, attributes) in self._named:
            return
        self._named.add((module_name, name, attributes))
        imports, statements = module.imports.get(name, ()), module.bindings.get(name, ())
        for found in imports:
            self._add_piece(f"{module_name}:{name} = {found.text}", "")
            self.reach_import(found, attributes)
        if not imports and not statements:
            self._reach_unbound_name(module, name, attributes)
        if statements and self._add_piece(f"{module_name}:{name}", "\n".join(map(module.text_of, statements))):
            for statement in statements:
                self.reach_node(module, statement)
            self._add_value(module, name, statements)

    def reach_import(self, found: ImportedName, attributes: tuple[str, ...]) -> None:
        if not is_project_module(found.module):
            return
        if found.attribute is not None:
            inside = parse_module(found.module)
            # In a package, `from . import rates` is the module itself.
            known = inside is not None and (
                found.attribute in inside.bindings
                or any(other != found for other in inside.imports.get(found.attribute, ()))
            )
            below = f"{found.module}.{found.attribute}"
            if known or not is_module(below):
                self.reach_name(found.module, found.attribute, attributes)
                return
            found = ImportedName(below)
        self.reach_module(found.module, attributes)

    def reach_module(self, name: str, attributes: tuple[str, ...] = ()) -> None:
        """Add an attribute of a module, or the whole module."""
        module = self.enter_module(name)
        if attributes:
            first, rest = attributes[0], attributes[1:]
            if module is not None and (first in module.bindings or first in module.imports):
                self.reach_name(name, first, rest)
                return
            if is_module(f"{name}.{first}"):
                self.reach_module(f"{name}.{first}", rest)
                return
        if module is not None and self._add_piece(f"{name}:{_WHOLE}", module.text_of(module.tree)):
            self.reach_node(module, module.tree)
            for known in {**module.bindings, **module.imports}:
                self.reach_name(name, known)

    def reach_node(self, module: SourceModule, node: ast.AST, *, bound: frozenset[str] = frozenset()) -> str:
        """Queue the names that a node uses for `follow_all`; returns the node's text."""
        uses = find_used_names(module, node, bound=bound)
        for name, attributes in uses.names:
            if not is_builtin(name, module):
                self._waiting.append(partial(self.reach_name, module.name, name, attributes))
        self._waiting += [partial(self.reach_import, *found) for found in uses.imports]
        self._waiting += [partial(self.reach_module, star) for star in uses.stars if is_project_module(star)]
        if uses.whole_module:
            self._waiting.append(partial(self.reach_module, module.name))
        if uses.whole_project:
            self._waiting.append(partial(self._reach_package, module.name.partition(".")[0]))
        return module.text_of(node)

    def _add_piece(self, key: str, text: str) -> bool:
        if key in self.pieces:
            return False
        self.pieces[key] = text
        return True

    def enter_module(self, name: str) -> SourceModule | None:
        """Add the import-time statements of a module of the project and of the modules that it imports; returns it."""
        if not is_project_module(name):
            return None
        module = parse_module(name)
        if not self._add_piece(f"{name}:{_EFFECTS}", "\n".join(map(module.text_of, module.effects)) if module else ""):
            return module
        parent = name.rpartition(".")[0]
        if parent:
            self.enter_module(parent)
        if module is None:
            self._add_bytes(name)
            return None
        for effect in module.effects:
            self.reach_node(module, effect)
        for other in module.imported:
            if is_project_module(other) and source_file(other) is not None:
                self.enter_module(other)
        return module

    def _add_bytes(self, name: str) -> None:
        """Add the hash of a module without Python source, such as a compiled one."""
        file = source_file(name)
        if file is not None and file.is_file():
            self._add_piece(f"{name}:bytes", hashlib.sha256(file.read_bytes()).hexdigest())

    def _reach_unbound_name(self, module: SourceModule, name: str, attributes: tuple[str, ...]) -> None:
        """Add everything that may define a name that no statement of the module binds, such as star imports."""
        below = f"{module.name}.{name}"
        if module.is_package and is_module(below):
            self.reach_module(below, attributes)
            return
        for star in filter(is_project_module, module.stars):
            inside = parse_module(star)
            if inside is not None and (name in inside.bindings or name in inside.imports):
                self.reach_name(star, name, attributes)
                return
            self.reach_module(star)
        self.reach_module(module.name)

    def _add_value(self, module: SourceModule, name: str, statements: list[ast.stmt]) -> None:
        """Add the value of a name that was computed, since it may depend on more than the source."""
        defined = all(isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) for s in statements)
        if defined or name in module.rebound or module.name not in self._loaded:
            return
        namespace = vars(sys.modules[module.name]) if module.name in sys.modules else {}
        described = self.describe(namespace[name]) if name in namespace else None
        if described is not None:
            self._add_piece(f"{module.name}:{name} is", described)

    def _reach_package(self, package: str) -> None:
        for folder in package_folders(package):
            for file in sorted(folder.rglob("*.py")):
                parts = [package, *file.relative_to(folder).with_suffix("").parts]
                self.reach_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
