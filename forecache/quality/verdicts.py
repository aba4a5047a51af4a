"""Verdicts: what a check found about each night of a table, kept in the stage ledger.

Dagster records a partition as materialized even where its blocking check failed, so whoever reads a night, first of
all the publisher, asks here. A night whose rows and expectations are what they were is not checked again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.errors import CheckError
from forecache.lake.delta.tables import read_table
from forecache.lake.ledger import StageRecord, last_record
from forecache.lake.stage import Done, Stage
from forecache.pipeline import Expectation
from forecache.quality.report import CheckReport
from forecache.quality.validate import validate
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

STAGE = "check"
DRIFT_STAGE = "drift"
"""Stage of the verdicts on a table's distribution; their details say in `blocks` why a night must not be published."""
_MAX_VALIDATIONS = 64


def check_nights(
    spark: "SparkSession",
    settings: Settings,
    table: str,
    expectations: Sequence[Expectation],
    *,
    column: str,
    states: Mapping[date, str],
    version: int | None = None,
    run_id: str = "",
) -> dict[date, CheckReport]:
    """Check nights of a table against expectations and record the verdicts.

    The nights that are not settled are checked together, in one validation; where that finds something, halves are
    checked to tell the bad nights from the good. After 64 validations what was found stands for all nights of a part.

    Args:
        column: Partition column (date) of the table.
        states: For each night, what identifies its rows, such as the digest of its data files; no blanks.
        version: Delta version that has these rows, None: the newest.

    Returns:
        A report for each night.
    """

    def check(nights: Sequence[date]) -> dict[date, Done]:
        frame = read_table(spark, settings, table, version=version)
        found = _Bisection(frame, table, expectations, column).check(nights)
        return {night: Done(report.rows, report.to_dict(), table) for night, report in found.items()}

    stage, inputs = Stage(settings, STAGE, table, run_id), check_inputs(states, expectations)
    records, _ = stage.nights(inputs, check, at_once=max(1, len(inputs)))
    return {night: CheckReport.from_dict(records[night].details) for night in sorted(records)}


def check_inputs(states: Mapping[date, str], expectations: Sequence[Expectation]) -> dict[date, str]:
    """By night, what a verdict depends on: the rows and the expectations."""
    declared = _fingerprint(expectations)
    return {night: f"{state} {declared}" for night, state in states.items()}


def require_passed(settings: Settings, table: str, night: date, *, state: str, drift: bool = False) -> None:
    """Refuse a night that was not checked in this state, or whose check failed; its drift likewise.

    Args:
        state: What identifies its rows, as `check_nights` was told.
        drift: Refuse also a night whose drift was never measured.

    Raises:
        CheckError: With the sentence of the check that failed.
    """
    verdict = refuse_failed(settings, table, night)
    if verdict is None:
        raise CheckError(
            f"The night {night} of table {table!r} was never checked.", remedy="Run the pipeline for that night."
        )
    if verdict.inputs.partition(" ")[0] != state:
        raise CheckError(
            f"The night {night} of table {table!r} was checked, but has other rows since.",
            remedy="Run the pipeline for that night: it checks what is there now.",
        )
    measured = last_record(settings, DRIFT_STAGE, table, night)
    if (measured is None and drift) or (measured is not None and measured.inputs.partition(" ")[0] != state):
        raise CheckError(
            f"The drift of the night {night} of table {table!r} was not measured on the rows that are there now.",
            remedy="Run the pipeline for that night: it measures what is there.",
        )


def refuse_failed(settings: Settings, table: str, night: date) -> StageRecord | None:
    """Refuse a night whose check failed or whose drift blocks; returns the verdict, None where it was never checked.

    Raises:
        CheckError: With the sentence of the check that failed.
    """
    drift = last_record(settings, DRIFT_STAGE, table, night)
    if drift is not None and drift.details["blocks"]:
        raise CheckError(
            f"The night {night} of table {table!r} has drifted too far: {drift.details['blocks']}",
            remedy="Mend the cause, or declare that drift does not block, and run the night again.",
        )
    verdict = last_record(settings, STAGE, table, night)
    if verdict is None:
        return None
    report = CheckReport.from_dict(verdict.details)
    if not report.success:
        raise CheckError(
            f"The night {night} of table {table!r} failed its check: {report.sentence}",
            remedy="Mend the cause and run the night again.",
        )
    return verdict


class _Bisection:
    """Validates nights together, and halves what has something against it until the nights it concerns are found."""

    def __init__(self, frame: "DataFrame", table: str, expectations: Sequence[Expectation], column: str) -> None:
        self._frame = frame
        self._table = table
        self._expectations = expectations
        self._column = column
        self._left = _MAX_VALIDATIONS

    def check(self, nights: Sequence[date]) -> dict[date, CheckReport]:
        report = self._validate(nights)
        if (report.success and not report.warnings) or len(nights) == 1 or self._left < 2:
            return dict.fromkeys(nights, report)
        middle = len(nights) // 2
        return self.check(nights[:middle]) | self.check(nights[middle:])

    def _validate(self, nights: Sequence[date]) -> CheckReport:
        from pyspark.sql import functions as F

        self._left -= 1
        span = str(nights[0]) if len(nights) == 1 else f"{nights[0]} to {nights[-1]}"
        # Literals let Delta skip the other partitions' files; as text they cost one call of the JVM for all.
        dates = ", ".join(f"DATE '{night.isoformat()}'" for night in nights)
        chosen = F.expr(f"`{self._column}` IN ({dates})")
        return validate(self._frame.where(chosen), self._expectations, name=f"{self._table} for {span}")


def _fingerprint(expectations: Sequence[Expectation]) -> str:
    text = json.dumps([[e.type, dict(e.arguments), e.severity] for e in expectations], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
