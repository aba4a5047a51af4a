"""Verdicts: what a check found about each night of a table, kept in the stage ledger.

Dagster records a partition as materialized even where its blocking check failed, so whoever reads a night, first of
all the publisher, asks here. A night whose rows and expectations are what they were is not checked again.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.errors import CheckError
from forecache.lake.ledger import StageRecord, last_record, last_records, record
from forecache.lake.tables import read_table
from forecache.pipeline import Expectation
from forecache.quality.report import CheckReport
from forecache.quality.validate import validate
from forecache.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

STAGE = "check"


def check_nights(
    spark: "SparkSession",
    settings: Settings,
    table: str,
    expectations: Sequence[Expectation],
    *,
    column: str,
    states: Mapping[date, str],
    run_id: str = "",
) -> dict[date, CheckReport]:
    """Check nights of a table against expectations and record the verdicts.

    The nights that are not settled are checked together, in one validation; only where that fails is each checked
    alone, to tell the bad from the good.

    Args:
        column: Partition column (date) of the table.
        states: For each night, what identifies its rows, such as the Delta version that wrote them.

    Returns:
        A report for each night.
    """
    inputs = {night: f"{state} {_fingerprint(expectations)}" for night, state in states.items()}
    before = last_records(settings, STAGE, table)
    reports: dict[date, CheckReport] = {}
    for night in states:
        if night in before and before[night].inputs == inputs[night]:
            reports[night] = CheckReport.from_dict(before[night].details)
    open_nights = sorted(set(states) - set(reports))
    if open_nights:
        started = time.perf_counter()
        found = _check(read_table(spark, settings, table), table, expectations, column=column, nights=open_nights)
        seconds = (time.perf_counter() - started) / len(open_nights)
        rows = [
            StageRecord(
                STAGE, table, night, inputs[night], table, -1, report.rows, seconds, report.to_dict(), run_id=run_id
            )
            for night, report in found.items()
        ]
        record(settings, rows)
        reports |= found
    return {night: reports[night] for night in sorted(reports)}


def require_passed(settings: Settings, table: str, night: date) -> None:
    """Refuse a night that was not checked or whose check failed.

    Raises:
        CheckError: With the sentence of the check that failed.
    """
    verdict = last_record(settings, STAGE, table, night)
    if verdict is None:
        raise CheckError(
            f"The night {night} of table {table!r} was never checked.", remedy="Run the pipeline for that night."
        )
    report = CheckReport.from_dict(verdict.details)
    if not report.success:
        raise CheckError(
            f"The night {night} of table {table!r} failed its check: {report.sentence}",
            remedy="Mend the cause and run the night again.",
        )


def _check(
    frame: "DataFrame", table: str, expectations: Sequence[Expectation], *, column: str, nights: Sequence[date]
) -> dict[date, CheckReport]:
    from pyspark.sql import functions as F

    span = str(nights[0]) if len(nights) == 1 else f"{nights[0]} to {nights[-1]}"
    # Literals let Delta skip the other partitions' files.
    chosen = F.col(column) == F.lit(nights[0]) if len(nights) == 1 else F.col(column).isin(list(nights))
    report = validate(frame.where(chosen), expectations, name=f"{table} for {span}")
    if report.success or len(nights) == 1:
        return dict.fromkeys(nights, report)
    return {night: _check(frame, table, expectations, column=column, nights=[night])[night] for night in nights}


def _fingerprint(expectations: Sequence[Expectation]) -> str:
    text = json.dumps([[e.type, dict(e.arguments), e.severity] for e in expectations], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
