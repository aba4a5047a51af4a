"""Models that are applied as they are: one registered in MLflow, a function of the project, an SQL expression."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from forecache.base.errors import SettingsError
from forecache.base.table_names import check_column
from forecache.declare.checks import check_arguments, check_fields, check_importable, check_value, import_path_of
from forecache.declare.models.gate import METRICS

_RETURNED = re.compile(r"([^\[\]]+)(?:\[(\d+)\])?")
_MODEL_URI = re.compile(r"models:/[^/@]+(@[^/@]+|/\d+)|runs:/[^/]+/.+")


@dataclass(frozen=True)
class Labelled:
    """A Delta table that a model is judged on: the feature columns under their names, and the true outcome.

    Attributes:
        table: Its URI or folder, or the name of a table in the lake.
        label: Column with the true outcome: 0 or 1, or a number. Rows with null in it are left out.
    """

    table: str
    label: str

    def __post_init__(self) -> None:
        check_fields("`Labelled`", self)
        check_value("`Labelled`", "table", self.table, bool(self.table.strip()), "Give a URI or a table of the lake.")
        check_column("`Labelled`", self.label)


@dataclass(frozen=True)
class RegisteredModel:
    """A model that is registered in MLflow, whoever trained it. Its URI is resolved again in each nightly run.

    Attributes:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN/PATH`.
        judged_on: The table on which each new version has to reach the floors before it scores; if one misses them, the
            last version that reached them goes on scoring.
        returns: The model's output for a declared output, if their names differ, such as `{"churn": "score"}`; for an
            output with several values a row, with the position from 0: `{"churn": "prediction[1]"}`.
        floors: Worst value allowed for each named metric, of one kind in `METRICS`; needs `judged_on`.
    """

    uri: str
    returns: Mapping[str, str] = field(default_factory=dict)
    judged_on: Labelled | None = None
    floors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields("`RegisteredModel`", self)
        rule = "Give models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN/PATH."
        check_value("`RegisteredModel`", "uri", self.uri, bool(_MODEL_URI.fullmatch(self.uri)), rule)
        for name in self.returns.values():
            rule = 'Name an output of the model, such as "score", or a value of a row of it, such as "prediction[1]".'
            check_value("`RegisteredModel`", "returns", name, bool(_RETURNED.fullmatch(name)), rule)
        if (self.judged_on is None) != (not self.floors):
            raise SettingsError(
                f"`RegisteredModel` {self.uri!r} has judged_on or floors without the other.",
                remedy="Give both or none.",
            )
        if self.floors:
            assert self.kind

    @property
    def name(self) -> str:
        """Name of the registered model; "" if the URI names a run."""
        scheme, _, rest = self.uri.partition(":/")
        return "" if scheme == "runs" else re.split("[@/]", rest)[0]

    @property
    def model_outputs(self) -> dict[str, tuple[str, int | None]]:
        """`returns` as pairs of the model's output and the position in a row; None: the whole output."""
        matches = {name: _RETURNED.fullmatch(text) for name, text in self.returns.items()}
        return {name: (m[1], int(m[2]) if m[2] else None) for name, m in matches.items() if m}

    @property
    def kind(self) -> Literal["binary", "regression", "multiclass", "quantiles"]:
        for kind, metrics in METRICS.items():
            if kind != "ranking" and set(self.floors) <= set(metrics):
                return kind
        kinds = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in METRICS.items() if kind != "ranking")
        raise SettingsError(
            f"`RegisteredModel` {self.uri!r} has floors of {', '.join(self.floors)}, which no kind of label has.",
            remedy=f"Metrics are of one kind: {kinds}.",
        )


@dataclass(frozen=True)
class FunctionModel:
    """A function of the project as the model: rules, a heuristic.

    Attributes:
        function: `function(features)` gets `{feature name: numpy array [n], NaN where unknown}` and returns the output,
            [n] numbers; NaN if it has none for a row, which the checks refuse. A row's value must depend on that row
            alone: it gets blocks of rows, some of them repeated. Workers import it by name from its module.
    """

    function: Callable[[Mapping[str, Any]], Any]

    def __post_init__(self) -> None:
        check_fields("`FunctionModel`", self)
        check_importable("`FunctionModel`", "function", self.function, by="Workers import it")
        check_arguments("`FunctionModel`", "function", self.function, "features")

    @property
    def path(self) -> str:
        return import_path_of(self.function)


@dataclass(frozen=True)
class SqlModel:
    """An SQL expression over the features as the model, in DuckDB's dialect.

    Attributes:
        expression: Over the feature columns of a row, such as "CASE WHEN visits = 0 THEN 1.0 ELSE 0.1 END". Unknown
            features are null. It returns a number, or null if it has no value, which the checks refuse. With several
            outputs, an expression for each by its name.
    """

    expression: str | Mapping[str, str]

    def __post_init__(self) -> None:
        check_fields("`SqlModel`", self)
        texts = self.expression.values() if isinstance(self.expression, Mapping) else [self.expression]
        for text in texts:
            check_value("`SqlModel`", "expression", text, bool(text.strip()), "Give an expression.")

    def expressions_of(self, outputs: Sequence[str]) -> list[str]:
        """The expression of each output, in order; raises KeyError if one is missing."""
        if isinstance(self.expression, Mapping):
            return [self.expression[name] for name in outputs]
        return [self.expression]
