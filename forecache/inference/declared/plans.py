"""The plan of a model that stands in the declaration, and of the outputs that a declaration wants of a model."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Literal

from forecache.errors import InputError
from forecache.inference.choose_runtime import Plan
from forecache.inference.declared import function, sql
from forecache.inference.kernel_spec import KERNEL_VERSION, PICKED, KernelSpec, OutputColumn
from forecache.inference.runtimes.registry import FUNCTION, SQL
from forecache.pipeline import FunctionModel, SqlModel


def plan_declared(model: FunctionModel | SqlModel, *, code: str, inputs: Sequence[str], outputs: Sequence[str]) -> Plan:
    """How a function or SQL expressions will be run.

    Args:
        code: Fingerprint of the model.
        inputs: Feature columns in order.
        outputs: Names of the outputs in order.
    """
    if isinstance(model, FunctionModel):
        runtime, uri, payload = FUNCTION, f"function {model.path}", function.pack(model.path, code)
        reason, packages = "the model is a function of the project, which workers import", {}
    else:
        runtime, uri, payload = SQL, f"sql {code}", sql.pack(model.by_output(outputs))
        reason, packages = "the model is an SQL expression, run by DuckDB", {"duckdb": version("duckdb")}
    columns = tuple(OutputColumn(name, "double") for name in outputs)
    spec = KernelSpec(
        runtime,
        _checksum(payload, KERNEL_VERSION, code, *inputs, *outputs),
        tuple(inputs),
        len(inputs),
        "float32",
        columns,
        _shape(columns),
        packages=packages,
    )
    return Plan(uri, spec, payload, reason)


def pick_outputs(plan: Plan, outputs: Sequence[str], returns: Mapping[str, tuple[str, int | None]]) -> Plan:
    """A plan whose outputs are those of a declaration.

    Args:
        outputs: Their names in order.
        returns: For some, the model's output and which value of a row, or None; the others are the model's output of
            that name, or its only one.

    Raises:
        InputError: The model has no such output, or one of several values a row, of which none was chosen.
    """
    have = [column.name for column in plan.spec.outputs]
    picked, columns = [], []
    for name in outputs:
        wanted, place = returns.get(name, (name if name in have or len(have) > 1 else have[0], None))
        if wanted not in have:
            raise InputError(
                f"The model {plan.uri} returns {', '.join(have)}, and the output {name!r} is to be {wanted!r}.",
                remedy=f"Name the output like one of the model's, or say which in returns={{{name!r}: ...}}.",
            )
        column = plan.spec.outputs[have.index(wanted)]
        _require_one_value(plan.uri, name, column, place)
        picked.append((have.index(wanted), place))
        columns.append(OutputColumn(name, column.type))
    options = {**plan.spec.options, PICKED: picked}
    spec = replace(plan.spec, outputs=tuple(columns), shape=_shape(columns), options=options)
    return replace(plan, spec=replace(spec, checksum=_checksum(plan.spec.checksum.encode(), outputs, picked)))


def _require_one_value(uri: str, name: str, column: OutputColumn, place: int | None) -> None:
    width = column.width
    if width is not None and place is None:
        several = f"{width} values" if width > 0 else "a list of values"
        raise InputError(
            f"The model {uri} returns {several} a row of {column.name!r}, and the output {name!r} is one number.",
            remedy=f"Say which one, from 0, such as returns={{{name!r}: '{column.name}[1]'}}.",
        )
    if place is not None and (width is None or 0 < width <= place):
        raise InputError(
            f"The model {uri} returns {width or 1} values a row of {column.name!r}: there is no [{place}].",
            remedy="Places count from 0.",
        )
    if column.type not in ("boolean", "int", "bigint", "float", "double"):
        raise InputError(
            f"The model {uri} returns {column.type} as {column.name!r}, and the output {name!r} is a number.",
            remedy="Log the model with a signature that returns numbers, such as probabilities.",
        )


def _shape(columns: Sequence[OutputColumn]) -> Literal["scalar", "struct"]:
    return "scalar" if len(columns) == 1 else "struct"


def _checksum(content: bytes, *more: object) -> str:
    return hashlib.sha256(content + json.dumps(more).encode()).hexdigest()[:20]
