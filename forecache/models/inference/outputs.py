"""A pipeline's outputs among those that a model returns, and their values for a batch.

Runs inside Spark's Python workers: imports numpy and pyarrow only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from forecache.base.errors import CheckError, InputError
from forecache.base.output_kinds import OutputSpec, probabilities_column
from forecache.models.inference.kernel_spec import CLASSES, OUTPUTS, KernelSpec


def read_output(stored: Mapping[str, Any]) -> OutputSpec:
    """Read an output from a model's metadata, in which tuples are lists."""
    values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in stored.items()}
    return OutputSpec(**{**values, "fields": tuple(tuple(field) for field in stored.get("fields", ()))})


def own_outputs(logged: Sequence[OutputSpec], spec: KernelSpec) -> list[OutputSpec | None]:
    """Logged specification of each output that a model returns: by its name, or the only one; None for others."""
    if spec.shape != "struct":
        return list(logged)
    known = {output.name: output for output in logged}
    return [known.get(column.name) for column in spec.outputs]


def known_outputs(declared: Sequence[OutputSpec], spec: KernelSpec) -> tuple[OutputSpec, ...]:
    """The declared outputs with the classes that the model knows.

    InputError if the model has several outputs and none of a declared name, was trained on other quantiles, knows other
    classes, or knows none although the declaration leaves them to it.
    """
    stored = {output.name: output for output in map(read_output, spec.options.get(OUTPUTS, ()))}
    found = []
    for output in declared:
        source_of(spec, output)
        classes = stored[output.name].classes if output.name in stored else _estimator_classes(output, spec)
        if output.kind == "classes" and output.classes and classes and classes != output.classes:
            raise InputError(
                f"The model knows the classes {', '.join(classes)} of {output.name!r}, and the pipeline declares "
                f"{', '.join(output.classes)}.",
                remedy="Train a model on the classes as they are declared now.",
            )
        if output.kind == "classes" and not (output.classes or classes) and _returns_shares(spec, output):
            raise InputError(
                f"The model does not say which classes its probabilities of {output.name!r} are of.",
                remedy="Declare them in the model's order: Classes(labels=(...)).",
            )
        levels = stored[output.name].levels if output.name in stored else ()
        if output.kind == "quantiles" and levels and levels != output.levels:
            raise InputError(
                f"The model returns the quantiles {', '.join(f'{level:g}' for level in levels)} of {output.name!r}, "
                f"and the pipeline declares {', '.join(f'{level:g}' for level in output.levels)}.",
                remedy="Train a model on the levels as they are declared now.",
            )
        found.append(replace(output, classes=output.classes or classes) if output.kind == "classes" else output)
    return tuple(found)


def _estimator_classes(output: OutputSpec, spec: KernelSpec) -> tuple[str, ...]:
    """Classes that a third-party estimator knows; none if the declaration renames all of them."""
    known = tuple(spec.options.get(CLASSES, ())) if output.kind == "classes" else ()
    renamed = bool(output.classes) and len(output.classes) == len(known) and not set(output.classes) & set(known)
    return () if renamed else known


def source_of(spec: KernelSpec, output: OutputSpec) -> tuple[int, ...]:
    """Positions of the model's outputs that an output is made from; InputError if it has several and none of that name.

    It is the model's only output, under any name, or the one of the same name; for classes their probabilities come
    before their names; quantiles may also be one output each.
    """
    names = [column.name for column in spec.outputs]
    if spec.shape != "struct":
        return (0,)
    if output.kind == "classes" and output.top != 0 and probabilities_column(output.name) in names:
        return (names.index(probabilities_column(output.name)),)
    if output.name in names:
        return (names.index(output.name),)
    if output.kind == "quantiles" and set(output.columns) <= set(names):
        return tuple(names.index(column) for column in output.columns)
    raise InputError(
        f"The model returns {', '.join(names)}, and the pipeline's output is called {output.name!r}.",
        remedy="Declare one of the model's as the output, or log the model with one of that name.",
    )


def _returns_shares(spec: KernelSpec, output: OutputSpec) -> bool:
    column = spec.outputs[source_of(spec, output)[0]]
    return column.width is not None or output.top != 0


def returned_values(
    spec: KernelSpec, returned: Sequence[np.ndarray], rows: int, outputs: Sequence[OutputSpec]
) -> list[np.ndarray]:
    """The values of each output, from the arrays that a kernel returned for some rows; errors as of `score_values`."""
    return [_values(output, [returned[i] for i in source_of(spec, output)], rows) for output in outputs]


def _values(output: OutputSpec, returned: Sequence[np.ndarray], rows: int) -> np.ndarray:
    values = np.asarray(returned[0])
    if len(returned) > 1:
        values = np.column_stack([np.asarray(each).reshape(rows, -1) for each in returned])
    if output.kind == "structs":
        if len(values) != rows:
            raise _wrong_count_error(output, f"{len(values)} lists", rows)
        return values
    names = output.kind == "classes" and values.size == rows and (output.top == 0 or values.dtype.kind != "f")
    width = output.values if output.is_array and not names else None
    if values.size != rows * (1 if width is None else width):
        raise _wrong_count_error(
            output, f"{values.size} values", rows, each="" if width is None else f" of {width} values"
        )
    values = values.reshape(rows) if width is None else values.reshape(rows, width)
    if names:
        return _class_names(output, values)
    return values if output.kind in ("text", "boolean") else _as_numbers(output, values)


def _class_names(output: OutputSpec, values: np.ndarray) -> np.ndarray:
    """Names of classes, [n]; whole numbers that are floats because of an unknown value become int, and NaN None."""
    if values.dtype.kind != "f":
        return values
    unknown = np.isnan(values)
    if (values[~unknown] % 1 != 0).any():
        raise CheckError(
            f"The model returned {values[~unknown][values[~unknown] % 1 != 0][0]:g} as a class of {output.name!r}.",
            remedy="A class is a text or a whole number.",
        )
    return np.array([None if value != value else int(value) for value in values.tolist()], dtype=object)


def _as_numbers(output: OutputSpec, values: np.ndarray) -> np.ndarray:
    """Numbers unchanged, or as float64 if they are objects."""
    if values.dtype.kind in "fiub":
        return values
    try:
        if values.dtype.kind != "O":
            raise TypeError
        return values.astype(np.float64)
    except (TypeError, ValueError):
        kind = "text" if values.dtype.kind in "OUS" else f"values of {values.dtype}"
        raise CheckError(
            f"The model returned {kind} as {output.name!r}, which is of numbers.",
            remedy="Return numbers, or declare another kind of output.",
        ) from None


def _wrong_count_error(output: OutputSpec, found: str, rows: int, *, each: str = "") -> CheckError:
    return CheckError(
        f"The model returned {found} of {output.name!r} for {rows} rows{each}.",
        remedy="A model must return one prediction for each row.",
    )
