"""A model's inputs and outputs: its MLflow signature as Spark types, and the check of a result type against it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from forecache.base.errors import InputError, SettingsError
from forecache.models.inference.kernel_spec import OutputColumn

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

_SPARK_NAMES = {
    "boolean": "boolean",
    "integer": "int",
    "long": "bigint",
    "float": "float",
    "double": "double",
    "string": "string",
    "binary": "binary",
    "datetime": "timestamp",
}
_NUMPY_NAMES = {"float32": "float", "float64": "double", "int32": "int", "int64": "bigint", "bool": "boolean"}
_FIELD = re.compile(r"\s*(?:`([^`]+)`|(\w+))\s*:?\s*(\w+|array\s*<[^<>]*>)\s*")
_NUMBERS = ("boolean", "int", "bigint", "float", "double")
# Casts that change no value; and double to float, which rounds, on request.
_CASTS = {
    "boolean": {"int", "bigint", "float", "double"},
    "int": {"bigint", "float", "double"},
    "bigint": {"double"},
    "float": {"double"},
    "double": {"float"},
}


@dataclass(frozen=True)
class Signature:
    inputs: tuple[str, ...]  # column names in order; empty if the signature is a tensor or there is none
    input_types: tuple[str, ...]  # Spark type names of those columns
    tensor: str | None  # numpy dtype name of a tensor input, None if the inputs are columns
    width: int | None  # number of features, None if unknown
    outputs: tuple[OutputColumn, ...] | None  # output columns, None if the model has no output signature
    optional: tuple[str, ...] = ()  # columns that may be left out

    @property
    def is_numeric(self) -> bool:
        return self.tensor is not None or (bool(self.inputs) and set(self.input_types) <= set(_NUMBERS))


def read_signature(
    inputs: Sequence[Mapping[str, Any]] | None, outputs: Sequence[Mapping[str, Any]] | None
) -> Signature:
    """Read a model's signature from its MLmodel file; InputError for a type that Spark columns cannot carry."""
    returned = None if outputs is None else tuple(_output(spec, i) for i, spec in enumerate(outputs))
    if not inputs:
        return Signature((), (), None, None, returned)
    if inputs[0]["type"] == "tensor":
        if len(inputs) > 1:
            raise InputError(
                f"The model takes {len(inputs)} tensors, which Spark columns cannot carry.",
                remedy="Log it with one tensor of rows, or with a signature of columns.",
            )
        dtype, shape = _tensor(inputs[0])
        return Signature((), (), dtype, shape[1] if len(shape) == 2 and shape[1] > 0 else None, returned)
    names = tuple(spec["name"] for spec in inputs) if "name" in inputs[0] else ()
    types = tuple(_SPARK_NAMES.get(spec["type"], spec["type"]) for spec in inputs)
    optional = tuple(spec["name"] for spec in inputs if names and not spec.get("required", True))
    return Signature(names, types, None, len(inputs), returned, optional)


def _tensor(spec: Mapping[str, Any]) -> tuple[str, list[int]]:
    """numpy's name of a tensor's type, and its shape with -1 for rows."""
    described = spec["tensor-spec"]
    return np.dtype(described["dtype"]).name, described["shape"]


def _output(spec: Mapping[str, Any], position: int) -> OutputColumn:
    name = spec.get("name") or (f"output_{position}" if position else "prediction")
    kind = spec["type"]
    if kind == "tensor":
        dtype, shape = _tensor(spec)
        if dtype not in _NUMPY_NAMES or len(shape) > 2:
            raise InputError(
                f"The model's output {name!r} is a {dtype} tensor of shape {tuple(shape)}.",
                remedy="Only numbers in one or two dimensions (rows, values) can become a Spark column.",
            )
        width = shape[1] if len(shape) == 2 else 1
        return OutputColumn(name, _NUMPY_NAMES[dtype], None if width == 1 else width)
    if kind in _SPARK_NAMES:
        return OutputColumn(name, _SPARK_NAMES[kind])
    element = spec["items"]["type"] if kind == "array" else ""
    if element in _SPARK_NAMES:
        return OutputColumn(name, _SPARK_NAMES[element], -1)
    fields = (
        {field: _SPARK_NAMES.get(each["type"]) for field, each in spec["items"]["properties"].items()}
        if (element == "object")
        else {}
    )
    if fields and None not in fields.values():
        return OutputColumn(name, f"struct<{','.join(f'{field}:{each}' for field, each in fields.items())}>", -1)
    raise InputError(
        f"The model's output {name!r} has the type {kind}, which scoring does not carry.",
        remedy="Log the model with outputs of numbers, strings, booleans, dates, or arrays of these or of structs.",
    )


def resolve_result(
    outputs: Sequence[OutputColumn] | None, result_type: "str | DataType | None"
) -> tuple[tuple[OutputColumn, ...], Literal["scalar", "array", "struct"]]:
    """The columns that the UDF returns and their shape; SettingsError if the result type does not fit the signature
    (the message names both), is one that scoring does not return, or is missing and the model has no output
    signature."""
    if result_type is None:
        if outputs is None:
            raise SettingsError(
                "The model was logged without an output signature, so the type of its predictions is unknown.",
                remedy="Pass result_type, such as 'double', or log the model with a signature.",
            )
        return tuple(outputs), _shape(outputs)
    wanted = parse_result_type(result_type)
    if outputs is not None:
        _require_fit(outputs, wanted, str(_ddl(wanted)))
        if len(wanted[0]) > 1:
            by_name = {column.name: column for column in wanted[0]}
            return tuple(by_name[column.name] for column in outputs if column.name in by_name), "struct"
    return wanted


def parse_result_type(
    result_type: "str | DataType",
) -> tuple[tuple[OutputColumn, ...], Literal["scalar", "array", "struct"]]:
    """A Spark type, or its text ("double", "array<float>", "a double, b string", "struct<a: double>"), as output
    columns; SettingsError if scoring does not return it. Spark's own parser needs a JVM, which the engine without one
    does not start."""
    text = result_type if isinstance(result_type, str) else result_type.simpleString()
    struct = re.fullmatch(r"\s*struct\s*<(.*)>\s*", text)
    if struct is None and re.fullmatch(r"\s*\w+\s*|\s*array\s*<[^<>]*>\s*", text):
        column = _column("prediction", text, result_type)
        return (column,), "scalar" if column.width is None else "array"
    fields = [_FIELD.fullmatch(part) for part in (struct[1] if struct else text).split(",")]
    if not all(fields):
        raise _not_a_type(result_type)
    return tuple(_column(field[1] or field[2], field[3], result_type) for field in fields if field), "struct"


def _column(name: str, text: str, whole: "str | DataType") -> OutputColumn:
    array = re.fullmatch(r"\s*array\s*<(.*)>\s*", text)
    word = (array[1] if array else text).strip().lower()
    word = {"long": "bigint", "integer": "int", "bool": "boolean"}.get(word, word)
    if word not in _SPARK_NAMES.values():
        raise _not_a_type(whole)
    return OutputColumn(name, word, -1 if array else None)


def _not_a_type(result_type: "str | DataType") -> SettingsError:
    return SettingsError(
        f"The result_type {result_type!r} is not one that scoring returns.",
        remedy=f"It returns {', '.join(_SPARK_NAMES.values())}, arrays of them, and structs: 'p double, label string'.",
    )


def _shape(outputs: Sequence[OutputColumn]) -> Literal["scalar", "array", "struct"]:
    if len(outputs) > 1:
        return "struct"
    return "scalar" if outputs[0].width is None else "array"


def _ddl(wanted: tuple[Sequence[OutputColumn], str]) -> str:
    columns, shape = wanted
    if shape != "struct":
        return columns[0].ddl
    return f"struct<{', '.join(f'{column.name}: {column.ddl}' for column in columns)}>"


def describe_outputs(outputs: Sequence[OutputColumn]) -> str:
    return _ddl((outputs, _shape(outputs)))


def _require_fit(outputs: Sequence[OutputColumn], wanted: tuple[Sequence[OutputColumn], str], asked: str) -> None:
    columns, shape = wanted
    given = {column.name: column for column in outputs}
    if shape != "struct":
        # A scalar or array result has no name of its own: it is the single output, whatever that is called.
        pairs = [(outputs[0], columns[0])] if len(outputs) == 1 else []
    else:
        pairs = [(given[column.name], column) for column in columns if column.name in given]
    fits = len(pairs) == len(columns) and (shape != "struct" or len(pairs) == len(outputs) or len(pairs) > 0)
    for have, want in pairs:
        same_shape = (have.width is None) == (want.width is None)
        fits = fits and same_shape and (have.type == want.type or want.type in _CASTS.get(have.type, set()))
    if not fits:
        raise SettingsError(
            f"The result_type is {asked}, and the model returns {describe_outputs(outputs)}.",
            remedy="Leave result_type out to take the model's, and cast or pick fields in Spark.",
        )
