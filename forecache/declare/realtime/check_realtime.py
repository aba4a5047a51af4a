"""Check that the parts of a real-time model fit together, when the declaration loads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from forecache.base.errors import SettingsError
from forecache.base.output_kinds import DECLARED
from forecache.base.table_names import (
    AS_OF,
    EVENT_TIMESTAMP,
    POSITION,
    PROVENANCE_COLUMNS,
    REQUEST_ID,
    check_column,
    check_name,
    check_unique,
)
from forecache.declare.checks.fields import check_known, check_least, check_value
from forecache.declare.checks.importable import check_arguments, check_importable
from forecache.declare.models.applied import FunctionModel
from forecache.declare.models.check_training import check_training
from forecache.declare.models.model import EstimatorModel, TorchModel
from forecache.declare.realtime.ladder import Default, DotProduct, LastNight, OrderGiven, Rung, Stored
from forecache.declare.realtime.lookup import Lookup
from forecache.declare.sources.keys import key_types

if TYPE_CHECKING:
    from forecache.declare.realtime.examples import Examples
    from forecache.declare.realtime.realtime import Realtime

OWN_COLUMNS = (REQUEST_ID, EVENT_TIMESTAMP, POSITION, AS_OF, "split")
"""Reserved columns of examples and of their training set, which no field or feature may have."""

_KEYS = "a string, a bigint or a date"


def check_realtime(owner: str, model: "Realtime") -> None:
    """Refuse a declaration that could not answer, or whose model could not be trained."""
    check_name("real-time model", model.name)
    check_column(f"{owner}, as its output,", model.output)
    beside = ("rung", "rank", model.candidates.item.name) if model.candidates else ("rung",)
    rule = f"An answer has {' and '.join(beside)} beside it: choose another name."
    check_value(owner, "output", model.output, model.output not in beside, rule)
    _check_names(owner, model)
    check_least(owner, model, 0, "deadline_ms", above=True)
    check_least(owner, model, 0, "cache_bytes")
    check_importable(owner, "transform", model.transform, by="A release packs it by its name")
    check_arguments(owner, "transform", model.transform, "rows")
    for feature in model.features:
        rule = "A transform returns float32: declare each of its columns as a number."
        check_value(owner, f"feature {feature.name!r}", feature.type, feature.type == "number", rule)
    types = {field.name: field.type for field in model.all_fields}
    for lookup in model.lookups:
        _check_lookup(owner, lookup, types)
    _check_log(owner, model)
    _check_fallbacks(owner, model, types)
    _check_model(owner, model)


def _check_names(owner: str, model: "Realtime") -> None:
    check_unique("field", owner, [each.name for each in model.all_fields])
    check_unique("look-up", owner, [each.called for each in model.lookups])
    check_value(owner, "features", model.features, bool(model.features), "Declare what the transform returns.")
    check_value(owner, "request", model.request, bool(model.all_fields), "Declare a field, or candidates.")
    of_examples = model.examples.columns if model.examples else ()
    check_unique("feature", owner, [*OWN_COLUMNS, *of_examples, *model.feature_names])
    check_unique("column of the examples", owner, [*OWN_COLUMNS, *of_examples, *(f.name for f in model.all_fields)])
    check_unique("column", owner, [*model.key, AS_OF, model.output, *PROVENANCE_COLUMNS])
    if model.candidates is not None:
        check_unique("field", owner, [model.candidates.name, *(each.name for each in model.request)])


def _check_lookup(owner: str, lookup: Lookup, types: Mapping[str, str]) -> None:
    view = lookup.view
    if view.publish is None:
        raise SettingsError(
            f"{owner} looks up the view {view.name!r}, which is not published.",
            remedy="Declare it with `publish=Publish()`.",
        )
    wanted = key_types(view.key, view.sources)
    for column, name in zip(view.key, lookup.by, strict=True):
        by = f"looks up the view {view.name!r} by {name!r}"
        if name not in types:
            raise SettingsError(
                f"{owner} {by}, which is no field of its request.",
                remedy=f"Its fields are {', '.join(types) or 'none'}: name those that hold the key, Lookup(key=(...)).",
            )
        if DECLARED.get(types[name]) != DECLARED[wanted[column]]:
            raise SettingsError(
                f"{owner} {by}, which is a {types[name]}, and the view's {column!r} is a {wanted[column]}.",
                remedy="Declare the field with the type of the key.",
            )


def _num_days_learned_from(examples: "Examples") -> int:
    """Days from the oldest request that a training reads to the date of the training."""
    return examples.train_days + examples.validation_days + examples.test_days + 3 * examples.horizon_days


def _check_log(owner: str, model: "Realtime") -> None:
    if model.log is None and model.examples is not None and model.examples.from_log:
        raise SettingsError(
            f"{owner} learns from its log and has none.", remedy='Declare `log=Log("...")`, or leave `from_log` out.'
        )
    if model.log is not None and model.examples is not None and model.examples.from_log:
        needed = _num_days_learned_from(model.examples)
        if model.log.keep_days < needed:
            raise SettingsError(
                f"{owner} learns from {needed} days of its log, splits and horizons together, and keeps "
                f"{model.log.keep_days}.",
                remedy=f"Declare `keep_days={needed}` or more for its log, or give the splits fewer days.",
            )
    types = {field.name: field.type for field in model.request}
    for name in model.log.by if model.log is not None else ():
        if name not in types:
            raise SettingsError(
                f"{owner} logs requests by {name!r}, which is no field of the request itself.",
                remedy=f"Its fields are {', '.join(types) or 'none'}: name those that hold the key, Log(by=(...)).",
            )
        if types[name] not in DECLARED:
            raise SettingsError(
                f"{owner} logs requests by {name!r}, which is a {types[name]}.", remedy=f"A key is {_KEYS}."
            )


def _check_fallbacks(owner: str, model: "Realtime", types: Mapping[str, str]) -> None:
    check_value(owner, "ladder", model.ladder, bool(model.ladder), "Declare what answers where the model does not.")
    always, kind = (OrderGiven, "OrderGiven()") if model.candidates else (Default, "Default(...)")
    what = "ranks candidates" if model.candidates else "answers one value"
    if not isinstance(model.ladder[-1], always):
        raise SettingsError(
            f"{owner} {what}, and the last rung of its ladder is {type(model.ladder[-1]).__name__}, "
            "which may have no answer.",
            remedy=f"End the ladder with {kind}.",
        )
    for rung in model.ladder[:-1]:
        if isinstance(rung, (OrderGiven, Default)):
            raise SettingsError(
                f"{owner} has {type(rung).__name__} before other rungs, which then never answer.",
                remedy="Move it to the end of the ladder.",
            )
    for stored in stored_values_of(model.ladder):
        use = f"{owner} has a rung that reads {stored.store!r} by"
        check_known(use, stored.key, types, ", which is no field of its request", "Its fields are")


def stored_values_of(ladder: Sequence[Rung]) -> Iterable[Stored]:
    """The stored values that fallbacks read."""
    for rung in ladder:
        if isinstance(rung, DotProduct):
            yield from (rung.user, rung.item)
        elif isinstance(rung, LastNight):
            yield rung.of


def _check_model(owner: str, model: "Realtime") -> None:
    if isinstance(model.model, (TorchModel, EstimatorModel)):
        arguments = ("num_features",) if isinstance(model.model, TorchModel) else ()
        check_arguments(f"{owner}, in its model,", "build", model.model.build, *arguments)
    if model.examples is not None and model.examples.kind == "ranking" and model.candidates is None:
        raise SettingsError(
            f"{owner} learns a ranking and has no candidates to rank.",
            remedy="Declare `candidates`, or examples of kind 'binary' or 'regression'.",
        )
    rule = "A function can hang: leave `runs` out, and it runs in a process that can be abandoned."
    check_value(owner, "runs", model.runs, not (isinstance(model.model, FunctionModel) and model.runs == "loop"), rule)
    check_training(owner, model, needed=("examples", "gate"))
