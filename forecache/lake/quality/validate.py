"""Expectations checked by Great Expectations on Spark, in an ephemeral context that leaves no files, and the report.

Great Expectations resolves its metrics in layers and runs one Spark aggregation for each: the row count (Parquet
footers only), all counts of unexpected values together, and, where a key must be unique, a count of distinct keys.
The number of passes does not grow with the number of expectations.
"""

import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from forecache.base.errors import CheckError, SettingsError
from forecache.declare import Expectation

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one expectation."""

    expectation: str
    subject: str  # its columns; "": the table as a whole
    severity: Literal["critical", "warning"]
    success: bool
    sentence: str
    observed: float | str | None = None  # the aggregate that was compared
    unexpected_count: int | None = None  # rows that violate it; None: it is about an aggregate
    unexpected_percent: float | None = None


@dataclass(frozen=True)
class CheckReport:
    """All outcomes of one validation; `success` is False if a critical expectation failed."""

    name: str
    results: tuple[CheckResult, ...]
    rows: int
    seconds: float

    @property
    def success(self) -> bool:
        return not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The critical expectations that failed."""
        return tuple(r for r in self.results if not r.success and r.severity == "critical")

    @property
    def warnings(self) -> tuple[CheckResult, ...]:
        """The expectations of severity warning that failed."""
        return tuple(r for r in self.results if not r.success and r.severity == "warning")

    @property
    def sentence(self) -> str:
        """The verdict on the critical expectations in one sentence, which names the first failures."""
        critical = sum(result.severity == "critical" for result in self.results)
        if self.success:
            return f"{self.name}: {critical} expectations hold over {self.rows:,} rows."
        reasons = " ".join(result.sentence for result in self.failures[:3])
        more = f" And {len(self.failures) - 3} more." if len(self.failures) > 3 else ""
        return f"{self.name} fails {len(self.failures)} of {critical} expectations: {reasons}{more}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CheckReport":
        results = tuple(CheckResult(**result) for result in values["results"])
        return cls(values["name"], results, values["rows"], values["seconds"])


def describe_outcome(
    expectation: Expectation, success: bool, observed: object, count: int | None, percent: float | None
) -> str:
    """Describe an expectation in one sentence and, if it failed, by how much."""
    wanted = f"{', '.join(expectation.columns) or 'The table'} {_describe_requirement(expectation)}"
    if success:
        return f"{wanted}: holds."
    if count is not None:
        return f"{wanted}: {count:,} rows ({percent:.3g} %) do not."
    return f"{wanted}: it is {_format_value(observed)}."


def _describe_requirement(expectation: Expectation) -> str:
    arguments = expectation.arguments
    demands = {
        "expect_column_values_to_not_be_null": "must not be null",
        "expect_column_values_to_be_unique": "must be unique",
        "expect_compound_columns_to_be_unique": "must be unique together",
        "expect_table_row_count_to_be_between": f"must have {_format_bounds(arguments)} rows",
        "expect_column_values_to_be_between": f"must be {_format_bounds(arguments)}",
        "expect_column_values_to_be_in_set": f"must be one of {arguments.get('value_set')}",
        "expect_column_values_to_match_regex": f"must match {arguments.get('regex')}",
    }
    if expectation.type in demands:
        return demands[expectation.type]
    about = {"column", "column_A", "column_B", "column_list"}
    rest = ", ".join(f"{name}={value!r}" for name, value in arguments.items() if name not in about)
    return expectation.type.removeprefix("expect_").replace("_", " ") + (f" ({rest})" if rest else "")


def _format_bounds(arguments: Mapping[str, Any]) -> str:
    low, high = arguments.get("min_value"), arguments.get("max_value")
    if low is not None and high is not None:
        return f"{_format_value(low)} to {_format_value(high)}"
    if low is not None:
        return f"at least {_format_value(low)}"
    return f"at most {_format_value(high)}"


def _format_value(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


# Counts only: lists of unexpected values would need another Spark job for each expectation.
_RESULT_FORMAT = {"result_format": "BASIC", "partial_unexpected_count": 0}
_UNIQUE = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")
_ROW_COUNT = Expectation("expect_table_row_count_to_be_between", {"min_value": 0})


def validate(frame: "DataFrame", expectations: Sequence[Expectation], *, name: str) -> CheckReport:
    """Check a frame, in which NaN counts as null; caches nothing and collects no rows.

    Raises:
        SettingsError: An expectation does not exist, or its arguments are wrong.
        CheckError: An expectation could not be evaluated, for example because its column is missing.
    """
    started = time.perf_counter()
    for expectation in expectations:
        _require_columns(frame, expectation, name)
    suite = [_build_expectation(e, position) for position, e in enumerate([*expectations, _ROW_COUNT])]
    outcomes = _run_suite(_add_key_columns(_replace_nan(frame), expectations), suite, name)
    for expectation, outcome in zip([*expectations, _ROW_COUNT], outcomes, strict=True):
        _require_evaluated(expectation, outcome, name)
    rows = int(outcomes[-1].result["observed_value"])
    results = tuple(_read_outcome(e, o, rows) for e, o in zip(expectations, outcomes, strict=False))
    return CheckReport(name, results, rows, time.perf_counter() - started)


def _run_suite(frame: "DataFrame", suite: list[Any], name: str) -> list[Any]:
    """Great Expectations' outcomes in the order of the suite."""
    import great_expectations as gx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_spark("spark", persist=False).add_dataframe_asset("frame")
        definition = gx.ValidationDefinition(
            name=name,
            data=asset.add_batch_definition_whole_dataframe("all"),
            suite=context.suites.add(gx.ExpectationSuite(name, expectations=suite)),
        )
        context.validation_definitions.add(definition)
        outcome = definition.run(batch_parameters={"dataframe": frame}, result_format=_RESULT_FORMAT)
    return sorted(outcome.results, key=lambda result: result.expectation_config.meta["position"])


def _build_expectation(expectation: Expectation, position: int) -> Any:
    """Great Expectations' object for a declared expectation; it keeps its position, as outcomes are unordered."""
    known = load_expectations()
    type_, arguments = expectation.type, dict(expectation.arguments)
    if type_ in _UNIQUE:
        # The built-in expectation uses a window over the whole frame; a count of distinct keys is one aggregation.
        type_ = "expect_column_proportion_of_unique_values_to_be_between"
        arguments = {"column": _key_column(expectation), "min_value": 1.0}
    build = getattr(known, "".join(word.capitalize() for word in type_.split("_")), None)
    if build is None:
        raise SettingsError(
            f"There is no expectation {expectation.type!r}.",
            remedy="Great Expectations' gallery lists them, such as expect_column_values_to_be_between.",
        )
    try:
        return build(**arguments, severity=expectation.severity, meta={"position": position})
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise SettingsError(
            f"The expectation {expectation.type} has wrong arguments {arguments}: {reason}.",
            remedy="See its page in Great Expectations' gallery.",
        ) from None


def load_expectations() -> Any:
    """Import the module with Great Expectations' expectation classes, which takes six seconds."""
    # Great Expectations reads this once, at import; by default it reports usage to its makers.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    import great_expectations.expectations as known

    return known


def _require_columns(frame: "DataFrame", expectation: Expectation, name: str) -> None:
    missing = [column for column in expectation.columns if column not in frame.columns]
    if missing:
        raise CheckError(
            f"{name} lacks the column {missing[0]!r}, which {expectation.type} is about.",
            remedy=f"It has {', '.join(frame.columns)}.",
        )


def _key_column(expectation: Expectation) -> str:
    return "__key_" + "__".join(expectation.columns)


def _replace_nan(frame: "DataFrame") -> "DataFrame":
    """Replace NaN by null: in Spark NaN is larger than every number and would meet any declared minimum."""
    from pyspark.sql import functions as F

    floats = [field.name for field in frame.schema.fields if field.dataType.typeName() in ("float", "double")]
    return frame.withColumns({name: F.nanvl(name, F.lit(None)) for name in floats}) if floats else frame


def _add_key_columns(frame: "DataFrame", expectations: Sequence[Expectation]) -> "DataFrame":
    from pyspark.sql import functions as F

    keys = {_key_column(e): F.struct(*e.columns) for e in expectations if e.type in _UNIQUE}
    return frame.withColumns(keys) if keys else frame


def _require_evaluated(expectation: Expectation, outcome: Any, name: str) -> None:
    info = outcome.exception_info or {}
    details = [info] if "raised_exception" in info else list(info.values())
    raised = [detail for detail in details if detail["raised_exception"]]
    if raised:
        reason = str(raised[0]["exception_message"]).splitlines()[0]
        raise CheckError(
            f"{name} could not be checked by {expectation.type} {dict(expectation.arguments)}: {reason}.",
            remedy="Correct the expectation's arguments or the column's type.",
        )


def _read_outcome(expectation: Expectation, outcome: Any, rows: int) -> CheckResult:
    result = outcome.result
    observed, count = result.get("observed_value"), result.get("unexpected_count")
    if expectation.type in _UNIQUE:
        count = rows - round(observed * rows)
        success, observed = count == 0, None
    else:
        success = bool(outcome.success)
        if observed is None:
            count = count or 0
    return make_result(expectation, success, observed, count, rows)


def make_result(expectation: Expectation, success: bool, observed: object, count: int | None, rows: int) -> CheckResult:
    """The outcome of an expectation over some rows, of which `count` violate it; None: it is about an aggregate."""
    percent = None if count is None else 100.0 * count / rows if rows else 0.0
    return CheckResult(
        expectation=expectation.type,
        subject=", ".join(expectation.columns),
        severity=expectation.severity,
        success=success,
        sentence=describe_outcome(expectation, success, observed, count, percent),
        observed=observed if observed is None or isinstance(observed, float | int) else str(observed),
        unexpected_count=count,
        unexpected_percent=percent,
    )
