"""Verdicts: the result of the checks on each as-of date of a table, kept in the stage ledger.

Dagster records a partition as materialized even if its blocking check failed, so every reader of an as-of date, above
all the publisher, has to read its verdict. An as-of date with the same rows and expectations is not checked again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import cache
from typing import TYPE_CHECKING

from forecache.base.errors import CheckError
from forecache.base.settings import Settings
from forecache.declare import Expectation
from forecache.kit.delta.tables import read_table
from forecache.lake.ledger import StageRecord, last_record
from forecache.lake.quality.validate import CheckReport, validate
from forecache.lake.stage_runner import Stage, StageOutcome, format_nights

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

STAGE = "check"
DRIFT_STAGE = "drift"
"""Ledger stage of the drift verdicts; `blocks` in their details is the reason why a date must not be published."""
_MAX_VALIDATIONS = 64


ValidateNights = Callable[[Sequence[date]], CheckReport]
"""Validates the rows of some as-of dates of a table together."""


def check_nights(
    validate_nights: ValidateNights,
    settings: Settings,
    table: str,
    expectations: Sequence[Expectation],
    *,
    states: Mapping[date, str],
) -> dict[date, CheckReport]:
    """Check as-of dates of a table against expectations and record the verdicts; returns a report for each date.

    Dates without a current verdict are checked together in one validation. If that finds something, the dates are
    halved until the failing ones are found. At most 64 validations are run; after that every date of an undivided range
    gets the range's verdict, so that a good date in it can fail.

    `states` has a text without blanks that identifies the rows of each date, such as the digest of its data files.
    """

    def check(nights: Sequence[date]) -> dict[date, StageOutcome]:
        found = _find_failing(validate_nights, nights)
        return {night: StageOutcome(report.rows, report.to_dict(), table) for night, report in found.items()}

    stage, inputs = Stage(settings, STAGE, table), check_inputs(states, expectations)
    records, _ = stage.run_nights(inputs, check, at_once=max(1, len(inputs)))
    return {night: CheckReport.from_dict(records[night].details) for night in sorted(records)}


def check_inputs(states: Mapping[date, str], expectations: Sequence[Expectation]) -> dict[date, str]:
    """Text that identifies what each date's verdict depends on: the rows and the expectations."""
    declared = _fingerprint(expectations)
    return {night: f"{state} {declared}" for night, state in states.items()}


def require_passed(settings: Settings, table: str, night: date, *, state: str, drift: bool = False) -> None:
    """Refuse an as-of date whose rows were not checked in this state, or failed; the same for a measured drift.

    With `drift` also one whose drift was never measured. CheckError says why.
    """
    verdict = refuse_failed_date(settings, table, night)
    if verdict is None:
        raise CheckError(
            f"As-of date {night} of table {table!r} was never checked.", remedy="Run the pipeline for that date."
        )
    if verdict.inputs.partition(" ")[0] != state:
        raise CheckError(
            f"As-of date {night} of table {table!r} was checked, but has other rows since.",
            remedy="Run the pipeline for that date, which checks the present rows.",
        )
    measured = last_record(settings, DRIFT_STAGE, table, night)
    if (measured is None and drift) or (measured is not None and measured.inputs.partition(" ")[0] != state):
        raise CheckError(
            f"The drift of as-of date {night} of table {table!r} was not measured on the rows that are there now.",
            remedy="Run the pipeline for that date, which measures the present rows.",
        )


def refuse_failed_date(settings: Settings, table: str, night: date) -> StageRecord | None:
    """Refuse an as-of date that failed its check or whose drift blocks; returns the verdict, None if it has none."""
    drift = last_record(settings, DRIFT_STAGE, table, night)
    if drift is not None and drift.details["blocks"]:
        raise CheckError(
            f"As-of date {night} of table {table!r} has drifted too far: {drift.details['blocks']}",
            remedy="Fix the cause, or declare that drift does not block, and run the as-of date again.",
        )
    verdict = last_record(settings, STAGE, table, night)
    if verdict is None:
        return None
    report = CheckReport.from_dict(verdict.details)
    if not report.success:
        raise CheckError(
            f"As-of date {night} of table {table!r} failed its check: {report.sentence}",
            remedy="Fix the cause and run the as-of date again.",
        )
    return verdict


def validation_on_spark(
    session: Callable[[], "SparkSession"],
    settings: Settings,
    table: str,
    expectations: Sequence[Expectation],
    *,
    column: str,
    version: int | None = None,
) -> ValidateNights:
    """Validation of a table at a version by Great Expectations on Spark, which starts with the first as-of dates.

    `column` is the table's partition column (date).
    """

    @cache
    def read() -> "DataFrame":
        return read_table(session(), settings, table, version=version)

    def validate_nights(nights: Sequence[date]) -> CheckReport:
        from pyspark.sql import functions as F

        # Literals let Delta skip the other partitions' files; as text they cost one call of the JVM for all.
        dates = ", ".join(f"DATE '{night.isoformat()}'" for night in nights)
        chosen = read().where(F.expr(f"`{column}` IN ({dates})"))
        return validate(chosen, expectations, name=validation_name(table, nights))

    return validate_nights


def validation_name(table: str, nights: Sequence[date]) -> str:
    return f"{table} for {format_nights(nights)}"


def _find_failing(validate_nights: ValidateNights, nights: Sequence[date]) -> dict[date, CheckReport]:
    """Validate dates together, and halve a failing range until the failing dates are found."""
    left = _MAX_VALIDATIONS

    def check(some: Sequence[date]) -> dict[date, CheckReport]:
        nonlocal left
        left -= 1
        report = validate_nights(some)
        if (report.success and not report.warnings) or len(some) == 1 or left < 2:
            return dict.fromkeys(some, report)
        middle = len(some) // 2
        return check(some[:middle]) | check(some[middle:])

    return check(nights)


def _fingerprint(expectations: Sequence[Expectation]) -> str:
    text = json.dumps([[e.type, dict(e.arguments), e.severity] for e in expectations], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
