"""Checks of the frames and rows that the functions of a declaration return: columns, types, labels, unique keys."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forecache.base.errors import InputError
from forecache.declare import AS_OF, Features, FeatureView, Pipeline, Trainable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

_NUMBERS = ("tinyint", "smallint", "int", "bigint", "float", "double", "boolean")


def require_numbers(
    frame: "DataFrame", declared: Pipeline | FeatureView, names: Sequence[str], function: Any, kind: str
) -> None:
    """Refuse a frame that lacks one of the columns `names`, or has one that is no number; its rows are not read.

    `function` returned the frame, and `kind` is "feature" or "label", for messages.
    """
    require_columns(frame, declared, names, function, kind)
    types = dict(frame.dtypes)
    for name in names:
        if types[name] not in _NUMBERS and not types[name].startswith("decimal"):
            raise InputError(
                f"The {kind} {name!r} of {declared.name!r} is a {types[name]}; {kind}s are numbers.",
                remedy=f"Return a number from {function_name(function)}: cast it, count it or encode it.",
            )


def require_columns(
    frame: "DataFrame", declared: Pipeline | FeatureView, names: Sequence[str], function: Any, kind: str
) -> None:
    """Refuse a frame that lacks a column; the arguments are those of `require_numbers`."""
    missing = [name for name in (*declared.key, AS_OF, *names) if name not in frame.columns]
    if missing:
        raise InputError(
            f"The {kind}s of {declared.name!r} lack the column {missing[0]!r}.",
            remedy=f"Return it from {function_name(function)} or remove it from the declaration.",
        )


MOST_RELEVANT = 30.0
"""The largest label of a ranking that LightGBM and XGBoost accept."""


def require_labels(written: "pa.Table", pipeline: Trainable) -> None:
    """Refuse labels (of rows with `as_of`, `split`) that are null, not finite, or outside the values of their kind."""
    import pyarrow as pa
    import pyarrow.compute as pc

    label, function = pipeline.trained_label, function_name(pipeline.trained_label.computation)
    values = written[label.name]
    classes = label.kind == "multiclass"
    wrong = pc.is_null(values) if classes else pc.invert(pc.fill_null(pc.is_finite(values), False))
    what = "class" if classes else "number"
    rule = f"Return a {what} from {function} for each entity that it returns, and leave out those that have none."
    if not pc.any(wrong).as_py() and label.kind == "binary":
        wrong = pc.invert(pc.or_(pc.equal(values, 0.0), pc.equal(values, 1.0)))
        rule = f"Return 0.0 or 1.0 from {function}, or declare a regression."
    if not pc.any(wrong).as_py() and label.kind == "ranking":
        whole = pc.equal(values, pc.floor(values))
        wrong = pc.invert(pc.and_(whole, pc.and_(pc.greater_equal(values, 0.0), pc.less_equal(values, MOST_RELEVANT))))
        rule = f"Return whole numbers from 0 to {MOST_RELEVANT:g} from {function}: a candidate gains 2^label - 1."
    found = written.filter(wrong)
    if found.num_rows:
        row = found.slice(0, 1).to_pylist()[0]
        raise InputError(
            f"The label {label.name!r} of {pipeline.inline_name} is {row[label.name]} in {found.num_rows:,} of "
            f"{written.num_rows:,} rows, first on {row[AS_OF]}.",
            remedy=rule,
        )
    if label.weight:
        weights = written[label.weight].cast(pa.float32(), safe=False)  # as the model gets them
        fits = pc.fill_null(pc.and_(pc.is_finite(weights), pc.greater(weights, 0.0)), False)
        found = written.filter(pc.invert(fits))
        if found.num_rows:
            raise InputError(
                f"The weight {label.weight!r} of {pipeline.inline_name} is {found[label.weight][0].as_py()} in "
                f"{found.num_rows:,} of {written.num_rows:,} rows.",
                remedy=f"Return a number above 0 from {function}, and leave out rows that are not to count.",
            )


def require_class_names(frame: "DataFrame", pipeline: Pipeline) -> None:
    """Refuse a label of classes that is neither text nor whole numbers; only its schema is looked at."""
    label, function = pipeline.trained_label, function_name(pipeline.trained_label.computation)
    kind = dict(frame.dtypes).get(label.name)
    if kind not in ("string", "tinyint", "smallint", "int", "bigint"):
        raise InputError(
            f"The label {label.name!r} of pipeline {pipeline.name!r} is {'missing' if kind is None else f'a {kind}'}; "
            f"classes are texts or whole numbers.",
            remedy=f"Return one from {function}.",
        )


def require_classes(written: "pa.Table", pipeline: Pipeline) -> tuple[str, ...]:
    """The classes of the training split in the order of a model's probabilities: as declared, else ascending.

    InputError if it has one class only, or lacks one that is declared or that a later split has.
    """
    import pyarrow.compute as pc

    label, declared = pipeline.trained_label, pipeline.output_specs[0].classes
    trained = class_order(written.filter(pc.equal(written["split"], "train"))[label.name].unique().to_pylist())
    for split in ("train", "validation", "test"):
        known = declared or trained
        found = written.filter(pc.equal(written["split"], split))[label.name].unique().to_pylist()
        strange = [name for name in class_order(found) if name not in known]
        if strange:
            wanted = "the declaration does not have" if declared else "the training split never has"
            raise InputError(
                f"The {split} split of pipeline {pipeline.name!r} has the class {strange[0]!r} of {label.name!r}, "
                f"which {wanted}; it has {', '.join(known)}.",
                remedy=f"Train on more dates, or let {function_name(label.computation)} give rare classes one name.",
            )
    missing = [name for name in declared if name not in trained]
    if missing:
        raise InputError(
            f"The training split of pipeline {pipeline.name!r} never has the declared class {missing[0]!r} of "
            f"{label.name!r}.",
            remedy="Train on more dates, or remove it from the labels of the declaration.",
        )
    if len(trained) < 2:
        raise InputError(
            f"Every label of the training split of {pipeline.name!r} is {trained[0]!r}.",
            remedy="Use more training dates, so that several classes occur.",
        )
    return declared or trained


def class_order(names: Sequence[str | None]) -> tuple[str, ...]:
    """Names of classes, ascending: as numbers if all are whole numbers, else as texts; without null."""
    known = [name for name in names if name is not None]
    whole = all(name.removeprefix("-").isdigit() for name in known)
    return tuple(sorted(known, key=lambda name: (int(name) if whole else 0, name)))


def require_one_row_each(rows: "pa.Table", pipeline: Pipeline) -> None:
    """Refuse rows of a training set with an entity twice on a date."""
    import pyarrow.compute as pc

    entity = [*pipeline.key, AS_OF]
    counts = rows.group_by(entity).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1)).slice(0, 1).to_pylist()
    if twice:
        where = ", ".join(f"{name} {twice[0][name]}" for name in entity)
        given = [view.features.computation for view in pipeline.views if isinstance(view.features, Features)]
        functions = " and ".join(map(function_name, [*given, pipeline.trained_label.computation]))
        raise InputError(
            f"The training set of pipeline {pipeline.name!r} has {twice[0]['count_all']} rows for {where}.",
            remedy=f"Return one row for each entity and date from {functions}.",
        )


_WHOLE_NUMBER, _WHOLE_TYPES = "whole number", ("tinyint", "smallint", "int", "bigint")


def require_key_types(owner: str, given: Mapping[str, str], found: Mapping[str, str], view: FeatureView) -> None:
    """Refuse a key column of a view whose type among given rows differs in kind from the view's, such as text and
    number; both are types by column, as Spark names them."""
    for name in view.key:
        kinds = {_WHOLE_NUMBER if kind in _WHOLE_TYPES else kind for kind in (given[name], found[name])} - {"void"}
        if len(kinds) > 1:
            raise InputError(
                f"{owner} {name!r} as {given[name]}, and the view {view.name!r} as {found[name]}.",
                remedy="Cast it: rows of different types are not joined.",
            )


def function_name(function: Any) -> str:
    """Name of a function, a partial or a callable object, for messages; of SQL "the SQL"."""
    if function is None:
        return "the source"
    if isinstance(function, str):
        return "the SQL"
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__
