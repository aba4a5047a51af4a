"""Check declared values against the types of their fields when a declaration loads."""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from datetime import date, datetime
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

from forecache.base.errors import SettingsError


def check_fields(owner: str, declared: Any) -> None:
    """Refuse a dataclass with a value of another type than its field's.

    Args:
        owner: Its name in the message, such as "Column 'amount'".

    Raises:
        SettingsError: The message names the field, the value and the type.
    """
    for field in dataclasses.fields(declared):
        value = getattr(declared, field.name)
        kind = _resolve_annotation(field.type) if isinstance(field.type, str) else field.type
        if not _is_of_type(value, kind):
            raise SettingsError(f"{owner} has {field.name}={_shorten(value)}.", remedy=f"It is {_describe_type(kind)}.")


def check_value(owner: str, name: str, value: object, fits: bool, rule: str) -> None:
    """Refuse a value unless it `fits`; `rule` becomes the remedy, such as "It is at least 1."."""
    if not fits:
        raise SettingsError(f"{owner} has {name}={_shorten(value)}.", remedy=rule)


def check_least(owner: str, declared: Any, least: float, *names: str, above: bool = False) -> None:
    """Refuse fields below `least`, or with `above` also those equal to it; None is accepted."""
    for name in names:
        value = getattr(declared, name)
        fits = value is None or (value > least if above else value >= least)
        check_value(
            owner, name, value, fits, f"Give {'more than ' if above else ''}{least:g}{'' if above else ' or more'}."
        )


def _resolve_annotation(annotation: str) -> Any:
    """The type of a quoted annotation, which names classes of heavy libraries: all of them are functions."""
    return Callable[..., Any] | None if annotation.endswith("| None") else Callable[..., Any]


def _is_of_type(value: Any, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin in (Union, types.UnionType):
        return any(_is_of_type(value, choice) for choice in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of_type(item, arguments[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _is_of_type(k, arguments[0]) and _is_of_type(v, arguments[1]) for k, v in value.items()
        )
    if origin is Callable:
        return callable(value)
    if kind in (int, float):
        is_number = isinstance(value, Integral if kind is int else Real) and math.isfinite(value)
        return is_number and type(value) is not bool
    if kind is date:
        return isinstance(value, date) and not isinstance(value, datetime)
    return isinstance(value, kind)


def _describe_type(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_describe_type(choice) for choice in arguments)
    if origin is tuple:
        return f"a tuple, each item {_describe_type(arguments[0])}"
    if origin is Mapping:
        return f"a mapping from {_describe_type(arguments[0])} to {_describe_type(arguments[1])}"
    if origin is Callable:
        return "a function"
    return _NAMES.get(kind) or f"a {kind.__name__}"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_NAMES: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    date: "a date",
    type(None): "None",
    Any: "anything",
}
