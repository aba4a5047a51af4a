"""What the functions of a declaration have to return, checked before or as soon as Spark has it."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forecache.errors import InputError
from forecache.pipeline import AS_OF, Features, FeatureView, Pipeline

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

_NUMBERS = ("tinyint", "smallint", "int", "bigint", "float", "double", "boolean")


def require_numbers(
    frame: "DataFrame", declared: Pipeline | FeatureView, names: Sequence[str], function: Any, kind: str
) -> None:
    """Refuse a frame that lacks a column, or has one that is no number; only its schema is looked at.

    Args:
        names: Columns that have to be numbers, beside the key and `as_of`.
        function: What returned the frame.
        kind: What the columns are, "feature" or "label".

    Raises:
        InputError: With declaration, column and type.
    """
    missing = [name for name in (*declared.key, AS_OF, *names) if name not in frame.columns]
    if missing:
        raise InputError(
            f"The {kind}s of {declared.name!r} lack the column {missing[0]!r}.",
            remedy=f"Return it from {name_of(function)} or remove it from the declaration.",
        )
    types = dict(frame.dtypes)
    for name in names:
        if types[name] not in _NUMBERS and not types[name].startswith("decimal"):
            raise InputError(
                f"The {kind} {name!r} of {declared.name!r} is a {types[name]}; {kind}s are numbers.",
                remedy=f"Return a number from {name_of(function)}: cast it, count it or encode it.",
            )


def require_labels(written: "pa.Table", pipeline: Pipeline) -> None:
    """Refuse labels that a model cannot be trained on.

    Args:
        written: `as_of`, `split` and the label (double) of every row of the training set.

    Raises:
        InputError: A label is null or no finite number, or not 0 or 1 where it is binary.
    """
    import pyarrow.compute as pc

    label, function = pipeline.trained_label, name_of(pipeline.trained_label.compute)
    values = written[label.name]
    wrong = pc.invert(pc.fill_null(pc.is_finite(values), False))
    rule = f"Return a number from {function} for each entity that it returns, and leave out those that have none."
    if not pc.any(wrong).as_py() and label.kind == "binary":
        wrong = pc.invert(pc.or_(pc.equal(values, 0.0), pc.equal(values, 1.0)))
        rule = f"Return 0.0 or 1.0 from {function}, or declare a regression."
    found = written.filter(wrong)
    if found.num_rows:
        row = found.slice(0, 1).to_pylist()[0]
        raise InputError(
            f"The label {label.name!r} of pipeline {pipeline.name!r} is {row[label.name]} in {found.num_rows:,} of "
            f"{written.num_rows:,} rows, first on {row[AS_OF]}.",
            remedy=rule,
        )


def require_one_row_each(rows: "pa.Table", pipeline: Pipeline) -> None:
    """Refuse rows of a training set with an entity twice on a date.

    Raises:
        InputError: With the first one found.
    """
    import pyarrow.compute as pc

    entity = [*pipeline.key, AS_OF]
    counts = rows.group_by(entity).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1)).slice(0, 1).to_pylist()
    if twice:
        where = ", ".join(f"{name} {twice[0][name]}" for name in entity)
        given = [view.features.compute for view in pipeline.views if isinstance(view.features, Features)]
        functions = " and ".join(map(name_of, [*given, pipeline.trained_label.compute]))
        raise InputError(
            f"The training set of pipeline {pipeline.name!r} has {twice[0]['count_all']} rows for {where}.",
            remedy=f"Return one row for each entity and date from {functions}.",
        )


def name_of(function: Any) -> str:
    """How a message calls a function, a partial or an object that is called."""
    if function is None:
        return "the source"
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__
