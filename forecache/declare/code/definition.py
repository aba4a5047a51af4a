"""Definitions: what fingerprints were made of, by name, so that two of them can be compared.

A definition has the declared values by their path, such as `training.num_as_of`, and by path the pieces of the
project's source that the value reaches, with a hash of each.
"""

import dataclasses
import hashlib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from forecache.declare.code.fingerprint import ValueDescriber, find_declared
from forecache.declare.code.reach import ReachedCode

ORDER = " (order)"
"""Ends the path of a list of names, beside the paths of the names themselves."""
_MOST_SHOWN = 4000
"""Characters of a value that are kept."""


@dataclass(frozen=True)
class Definition:
    """The declared values and pieces of source that a fingerprint was made of.

    Attributes:
        values: By path, a short text for people and a hash of the canonical text.
        reached: By path, the names of the pieces of source (`module:name`) that the value reaches.
        pieces: By name of a piece, a hash of its source.
    """

    values: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    reached: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pieces: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"values": self.values, "reached": self.reached, "pieces": self.pieces}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Definition":
        return cls(
            {path: (shown, digest) for path, (shown, digest) in found["values"].items()},
            {path: tuple(names) for path, names in found["reached"].items()},
            found["pieces"],
        )


def find_definition(fingerprint: str) -> Definition | None:
    """The definition of a fingerprint that this process has computed; None for any other."""
    declared = find_declared(fingerprint)
    if declared is None:
        return None
    values: dict[str, tuple[str, str]] = {}
    reached: dict[str, tuple[str, ...]] = {}
    pieces: dict[str, str] = {}
    for path, value in _list_values(declared, ""):
        reach = ReachedCode()
        text = ValueDescriber(reach).describe_declared(value)
        reach.follow_all()
        values[path] = (_show(value), _hash(text))
        if reach.pieces:
            reached[path] = tuple(sorted(reach.pieces))
            pieces |= {name: _hash(source) for name, source in reach.pieces.items()}
    return Definition(values, reached, pieces)


def _list_values(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Paths and values of a declared value, down to those without parts."""
    nested = find_declared(value) if isinstance(value, str) else None
    if nested is not None:
        yield from _list_values(nested, path)
    elif isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from _list_values(each, _join(path, str(name)))
    elif isinstance(value, (tuple, list)) and _are_names(value) and not _name_part(path, len(value), 0).isidentifier():
        yield from ((_join(path, each), each) for each in value)
        yield f"{path}{ORDER}", value
    elif isinstance(value, (tuple, list)) and value:
        for number, each in enumerate(value):
            yield from _list_values(each, _join(path, _find_name(each) or _name_part(path, len(value), number)))
    elif dataclasses.is_dataclass(value) and not isinstance(value, (type, Enum)):
        for each in dataclasses.fields(value):
            yield from _list_values(getattr(value, each.name), _join(path, each.name))
    else:
        yield path, value


def _are_names(values: Sequence[Any]) -> bool:
    """Tell if these are several names of columns or features, each once, so that one says more than its place."""
    are_texts = all(isinstance(each, str) and each.isidentifier() and find_declared(each) is None for each in values)
    return len(values) > 1 and are_texts and len(set(values)) == len(values)


_PARTS = {
    ("label", 3): ("name", "kind", "weight"),
    ("label", 6): ("name", "kind", "horizon_days", "computation", "weight", "classes"),
    ("windows", 5): ("name", "aggregate", "days", "column", "where"),
    ("windows", 7): ("name", "aggregate", "days", "column", "where", "minutes", "delay_days"),
    ("types", 2): ("name", "type"),
    ("entities", 2): ("columns", "computation"),
}
"""Names of the parts of tuples that fingerprints are made of, by a step of their path and their length."""


def _name_part(path: str, length: int, number: int) -> str:
    steps = path.split(".")[-2:]
    names = next((_PARTS[step, length] for step in steps if (step, length) in _PARTS), None)
    return str(number) if names is None else names[number]


def _find_name(value: Any) -> str:
    """The name of an item of a sequence: its declared one, or the first of plain values that begin with a name."""
    if isinstance(value, tuple) and value and isinstance(value[0], str) and value[0].isidentifier():
        return value[0]
    name = getattr(value, "name", None)
    return name if isinstance(name, str) and not isinstance(value, (type, types.FunctionType)) else ""


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show(value: Any) -> str:
    if isinstance(value, types.FunctionType):
        return f"function {value.__module__}:{value.__qualname__}"
    if isinstance(value, type):
        return f"class {value.__module__}:{value.__qualname__}"
    text = repr(value)
    if " at 0x" in text:  # the object's address says nothing
        return f"a {type(value).__qualname__}"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
