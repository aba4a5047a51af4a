"""Check that a declaration has the parts that a model that is trained here, or one that is applied as it is, needs."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from forecache.base.errors import SettingsError
from forecache.base.output_kinds import JUDGED
from forecache.declare.checks import check_known, check_value
from forecache.declare.models.applied import FunctionModel, RegisteredModel, SqlModel
from forecache.declare.models.gate import METRICS, RANKED_BY, Gate, rank_cutoff
from forecache.declare.models.model import EstimatorModel, TorchModel, Training
from forecache.declare.models.output import AnyOutput, Classes, Output, Quantiles, Segment, Vector
from forecache.declare.models.trainable import TRAINED, Trainable

_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN")
_UNSIGNED = ("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")
_CLAUSES = {
    "over": "looks at other rows",
    "select": "has a query of its own",
    "current_date": "differs from run to run",
    "current_time": "differs from run to run",
    "current_timestamp": "differs from run to run",
    "localtime": "differs from run to run",
    "localtimestamp": "differs from run to run",
}
_MOMENTS = (
    "age",
    "now",
    "today",
    "transaction_timestamp",
    "get_current_time",
    "get_current_timestamp",
    "current_localtime",
    "current_localtimestamp",
)


def connect() -> Any:
    """A DuckDB database in memory, with one thread and without files or a network."""
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": 1, "enable_external_access": False})
    connection.execute("SET lock_configuration = true")
    return connection


def build_query(expressions: Sequence[str]) -> str:
    """The query of the expressions over the table `features`; numbers as double."""
    # A comment at the end of an expression ends with its line.
    columns = ", ".join(f"CAST((\n{text}\n) AS DOUBLE) AS output_{i}" for i, text in enumerate(expressions))
    return f"SELECT {columns} FROM features"


def check_expression(owner: str, expression: str, features: Sequence[str]) -> None:
    """Refuse a text that is no expression over one row of the features, or whose value is no number."""
    import duckdb

    word = _refusal_reason(expression, features)
    if word:
        raise SettingsError(
            f"{owner} has the expression {_shorten(expression)}, which {word}.",
            remedy="Compute a row's output from the features of that row alone.",
        )
    columns = ", ".join(f'NULL::FLOAT AS "{name}"' for name in features)
    with connect() as connection:
        connection.execute(
            f"CREATE TEMP VIEW features AS SELECT {columns}"
        )  # a view, so that there is no rowid: a batch has none either
        try:
            alone = len(connection.extract_statements(build_query([expression]))) == 1
            kinds = connection.sql(f"SELECT (\n{expression}\n) FROM features").types if alone else []
        except duckdb.Error as error:
            said = str(error).splitlines()[0].rstrip(".!")
            raise SettingsError(
                f"{owner} has the expression {_shorten(expression)}, which is wrong: {said}.",
                remedy=f"Its features are {', '.join(features)}.",
            ) from None
    if len(kinds) != 1:
        raise SettingsError(f"{owner} has the expression {_shorten(expression)}.", remedy="Give one expression.")
    kind = str(kinds[0])
    if kind.partition("(")[0] not in (*_NUMBERS, *_UNSIGNED):
        raise SettingsError(
            f"{owner} has the expression {_shorten(expression)}, which gives {kind}.", remedy="Give a number."
        )


def _refusal_reason(expression: str, features: Sequence[str]) -> str:
    """The reason why a word of an expression is not allowed; "" if all are."""
    import duckdb

    found = duckdb.tokenize(expression)
    ends = [start for start, _ in found[1:]] + [len(expression)]
    words = [(expression[start:end].strip().lower(), kind) for (start, kind), end in zip(found, ends, strict=True)]
    for place, (word, kind) in enumerate(words):
        if kind in (duckdb.token_type.string_const, duckdb.token_type.comment):
            continue
        called = place + 1 < len(words) and words[place + 1][0].startswith("(")
        if word == "from" and place and words[place - 1][0].endswith("("):
            return "has a query of its own"
        if word in _CLAUSES and word not in features:
            return f"says {word.upper()} and so {_CLAUSES[word]}"
        if called and (why := _refused_functions().get(word.strip('"'))):
            return f"calls {word}() and so {why}"
    return ""


@cache
def _refused_functions() -> dict[str, str]:
    """Functions that an expression may not call, each with the reason."""
    with connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name), function_type FROM duckdb_functions() "
            "WHERE function_type = 'aggregate' OR stability = 'VOLATILE'"
        ).fetchall()
    why = {"aggregate": "looks at other rows", "scalar": "differs from run to run"}
    moments = dict.fromkeys(_MOMENTS, "differs from run to run")
    return {**{name: why[kind] for name, kind in rows}, **moments, "unnest": "gives several rows"}


def _shorten(expression: str) -> str:
    text = " ".join(expression.split())
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def check_training(owner: str, declared: Trainable, *, needed: Sequence[str], only_trained: Sequence[str] = ()) -> None:
    """Refuse a trained model without what is `needed`, and another one with that or with what is `only_trained`."""
    kind = f"a `{type(declared.model).__name__}`"
    if isinstance(declared.model, TRAINED):
        for name in needed:
            if getattr(declared, name) is None:
                raise SettingsError(f"{owner} trains {kind} and has no {name}.", remedy=f"Declare its {name}.")
        check_training_outputs(owner, declared)
        check_gate(owner, declared)
        return
    given = [name for name in needed if getattr(declared, name) is not None]
    given += [*only_trained, *(["training"] if declared.training != Training() else [])]
    if given:
        raise SettingsError(
            f"{owner} declares {given[0]!r}, and its model, {kind}, is not trained here.", remedy="Leave it out."
        )
    _check_applied_model(owner, declared)


def _check_applied_model(owner: str, declared: Trainable) -> None:
    model, outputs = declared.model, [output.name for output in declared.outputs]
    listed = f"Its outputs are {', '.join(outputs)}."
    for name in model.returns if isinstance(model, RegisteredModel) else ():
        if name not in outputs:
            raise SettingsError(f"{owner} says what its model returns as {name!r}, which is no output.", remedy=listed)
    if isinstance(model, RegisteredModel) and model.floors:
        # The task follows from the metrics of the floors; an output that is a number needs metrics of numbers.
        is_number = declared.output_specs[0].kind == "number"
        known = METRICS["regression" if is_number and declared.task in ("multiclass", "quantiles") else declared.task]
        strange = [name for name in model.floors if name not in known]
        if strange or declared.output_specs[0].kind not in JUDGED:
            raise SettingsError(
                f"{owner} has the floors {', '.join(model.floors)}, and its first output, {outputs[0]!r}, is of "
                f"{declared.output_specs[0].kind}.",
                remedy=f"A model is judged by its first output: numbers, classes or quantiles, such as by {known[0]}.",
            )
    for spec in declared.output_specs if isinstance(model, FunctionModel) else ():
        if spec.kind == "classes" and spec.top != 0 and not spec.classes:
            raise SettingsError(
                f"{owner} has the classes {spec.name!r} without labels, and its model is a function.",
                remedy="Name them in the order of the probabilities that it returns, or declare probabilities=0.",
            )
    if isinstance(model, SqlModel):
        given = model.expression if isinstance(model.expression, Mapping) else dict.fromkeys(outputs[:1])
        other = set(given) ^ set(outputs)
        if other:
            name = min(other)
            what = f"no expression for its output {name!r}" if name in outputs else f"an expression for {name!r}"
            raise SettingsError(f"{owner} has {what} in its `SqlModel`.", remedy=listed)
        for output in declared.output_specs:
            if output.kind != "number":
                raise SettingsError(
                    f"{owner} has the output {output.name!r} of {output.kind}, and an SQL expression returns a number.",
                    remedy="Declare it as `Output`, or let a function return it: `FunctionModel`.",
                )
        for text in model.expressions_of(outputs):
            check_expression(f"{owner}, in its `SqlModel`,", text, declared.feature_names)


def check_outputs(owner: str, outputs: Sequence[AnyOutput], segments: Sequence[Segment]) -> None:
    """Refuse a declaration without outputs, and segments of no output that is a number."""
    check_value(owner, "outputs", outputs, bool(outputs), "Declare one or more.")
    numbers = [column for output in outputs for column in output.spec.numbers]
    for segment in segments:
        if segment.of not in numbers or len(segment.labels) != len(segment.bounds) + 1:
            of = f"`of` is {' or '.join(map(repr, numbers))}" if numbers else "Declare an output that is a number"
            raise SettingsError(
                f"{owner} has the segment {segment.name!r} of {segment.of!r} with {len(segment.bounds)} bounds and "
                f"{len(segment.labels)} labels.",
                remedy=f"{of}; there is one label more than bounds.",
            )


def check_training_outputs(owner: str, declared: Trainable) -> None:
    main, others, kind = declared.main_output, declared.outputs[1:], declared.trained_label.kind
    wanted = {"multiclass": (Classes,), "regression": (Output, Quantiles)}.get(kind, (Output,))
    if not isinstance(main, wanted):
        raise SettingsError(
            f"{owner} has a {kind} label and the first output {main.name!r}, which is of {type(main).__name__}.",
            remedy=f"The first is what is learned of the label: {' or '.join(each.__name__ for each in wanted)}.",
        )
    if kind == "ranking" and not declared.group_column:
        raise SettingsError(
            f"{owner} has a ranking as its label, which compares the candidates of a request.",
            remedy="Declare a `Realtime` model with `candidates`, or a `Recommender`.",
        )
    if kind == "ranking" and isinstance(declared.model, TorchModel) and not (declared.model.loss or declared.model.fit):
        raise SettingsError(
            f"{owner} learns a ranking by a network, and has no loss for it.",
            remedy="Declare a loss of each candidate, `TorchModel(loss=...)`, a training of your own, `fit=...`, or a "
            "ranker: EstimatorModel.",
        )
    if others and isinstance(declared.model, EstimatorModel):
        raise SettingsError(
            f"{owner} has the output {others[0].name!r} beside {main.name!r}, and its model is an estimator.",
            remedy="An estimator returns the first output only: remove the others, or train a torch network.",
        )
    for output in others:
        if not isinstance(output, (Output, Vector)):
            raise SettingsError(
                f"{owner} has the output {output.name!r} of {type(output).__name__}, which no network is trained for.",
                remedy="Beside the first output, a network returns numbers and vectors: Output and Vector.",
            )
    if declared.training.refit and isinstance(declared.model, TorchModel) and declared.model.fit is not None:
        raise SettingsError(
            f"{owner} declares Training(refit=True), and its network is trained by a function of its own, which is not "
            "called again.",
            remedy="Leave it out, or leave out `fit`.",
        )
    if kind != "regression" and isinstance(declared.model, TorchModel):
        rule = f"log1p is for a regression; a {kind} label takes 'identity'."
        check_value(owner, "model.target", declared.model.target, declared.model.target == "identity", rule)


def check_gate(owner: str, declared: Trainable) -> None:
    gate, task = declared.trained_gate, declared.task
    features = declared.feature_names
    if task == "ranking":
        _check_ranking_gate(owner, gate)
    if task in ("multiclass", "quantiles"):
        what = "are the class shares" if task == "multiclass" else "are the quantiles of the label"
        rule = f"The baseline of {task} {what} in the training split: leave it out."
        check_value(owner, "gate.baseline", gate.baseline, not gate.baselines, rule)
        check_value(owner, "gate.max_ece", gate.max_ece, gate.max_ece is None or task == "multiclass",
                    "Quantiles are judged by coverage_error.")  # fmt: skip
    elif not gate.baselines and task != "ranking":
        raise SettingsError(
            f"{owner} has a {task} label and no baseline in its gate.",
            remedy="Declare the feature that a model has to beat: Gate(baseline=Baseline(...)).",
        )
    numeric = {feature.name for feature in declared.feature_columns if feature.is_numeric}
    for baseline in gate.baselines:
        use, which = f"{owner} has the baseline feature", ", which it does not compute"
        check_known(use, [baseline.feature], features, which, "Its features are")
        rule, fits = "It scores by itself, so it is a number or an integer.", baseline.feature in numeric
        check_value(f"{owner}, in its gate,", "baseline.feature", baseline.feature, fits, rule)
    own = tuple(metric.name for metric in gate.metrics)
    known = (*METRICS[task], *own)
    taken = set(own) & set(METRICS[task])
    if taken:
        raise SettingsError(
            f"{owner} has a metric of its own called {min(taken)!r}, as one of Forecache's is.",
            remedy="Call it something else.",
        )
    for name in (gate.metric, *gate.floors, *gate.not_worse_than_baseline):
        if name not in known and (task != "ranking" or rank_cutoff(name) is None):
            raise SettingsError(
                f"{owner} judges a {task} label by {name!r} in its gate, which is no metric of it.",
                remedy=f"Those are {', '.join(known)}.",
            )
    if task == "binary":
        ranked = [name for name in METRICS[task] if name in RANKED_BY]
        use = f"{owner} compares with its baseline in its gate by"
        which = ", and a feature is no probability"
        check_known(use, gate.not_worse_than_baseline, ranked, which, "It orders the rows:")
    check_known(f"{owner} slices its gate by", gate.slices, features, ", which is not a feature", "Its features are")


def _check_ranking_gate(owner: str, gate: Gate) -> None:
    """Refuse limits that mean nothing for a ranking, in which only the order of scores counts."""
    for name in ("max_ece", "max_prediction_psi"):
        rule = "Scores of a ranking say nothing but an order: leave it out."
        check_value(owner, f"gate.{name}", getattr(gate, name), getattr(gate, name) is None, rule)
