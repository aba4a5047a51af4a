"""Verdicts: the result of the checks on each as-of date of a table, kept in the stage ledger.

Dagster records a partition as materialized even if its blocking check failed, so every reader of an as-of date, above
all the publisher, has to read its verdict. An as-of date with the same rows and expectations is not checked again.
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from forecache.base.errors import CheckError
from forecache.base.settings import Settings
from forecache.declare import Expectation
from forecache.kit.delta.damage import as_damaged_error
from forecache.kit.delta.dataset import open_dataset, read_few_ahead
from forecache.kit.delta.log import active_files, group_by_partition
from forecache.kit.delta.tables import open_table, read_table
from forecache.lake.engine import decide_engine
from forecache.lake.ledger import RecordedDetails, StageRecord, last_record
from forecache.lake.quality.evaluate import evaluate, plan_checks
from forecache.lake.quality.validate import CheckReport, make_result, require_columns, validate
from forecache.lake.query import scratch_database
from forecache.lake.stage_runner import Stage, StageOutcome, format_nights

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

logger = logging.getLogger("forecache.quality")
STAGE = "check"
DRIFT_STAGE = "drift"
"""Ledger stage of the drift verdicts; `blocks` in their details is the reason why a date must not be published."""
_MAX_VALIDATIONS = 64
_MAX_ROWS = 50_000_000


def check_nights(
    settings: Settings,
    table: str,
    expectations: Sequence[Expectation],
    *,
    column: str,
    states: Mapping[date, str],
    version: int | None = None,
) -> dict[date, CheckReport]:
    """Check as-of dates of a table against expectations and record the verdicts; returns a report for each date.

    Dates without a current verdict are checked together, by DuckDB if it knows the expectations and they have at most
    50 million rows (`forecache.lake.quality.evaluate`). Else Great Expectations validates them
    on Spark. If that finds something, the dates are halved until the failing ones are found. At most 64 validations are
    run; after that every date of an undivided range gets the range's verdict, so that a good date in it can fail.

    `column` is the table's partition column (date), and `states` has a text without blanks that identifies the rows of
    each date at the Delta version, such as the digest of its data files.
    """

    def check(nights: Sequence[date]) -> dict[date, StageOutcome]:
        found = _evaluate_nights(settings, table, expectations, column, nights, version)
        if found is None:
            engine = decide_engine(settings, needs_spark=[f"the check of the table {table!r}"])
            frame = read_table(engine.session(), settings, table, version=version)
            found = _validate_nights(frame, table, expectations, column, nights)
        return {night: StageOutcome(report.rows, report.to_dict(), table) for night, report in found.items()}

    stage, inputs = Stage(settings, STAGE, table), check_inputs(states, expectations)
    records, _ = stage.run_nights(inputs, check, at_once=max(1, len(inputs)))
    return {night: CheckReport.from_dict(records[night].details) for night in sorted(records)}


def has_passed(verdict: StageRecord) -> bool:
    """Tell if no critical expectation failed; most verdicts have no failure at all, and are not parsed."""
    details = verdict.details
    if isinstance(details, RecordedDetails) and '"success": false' not in details.text:
        return True
    return CheckReport.from_dict(details).success


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
            f"As-of date {night} of table {table!r} was never checked.",
            remedy=f"`forecache run NAME --date {night}` checks it.",
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


def _evaluate_nights(
    settings: Settings,
    table: str,
    expectations: Sequence[Expectation],
    column: str,
    nights: Sequence[date],
    version: int | None,
) -> dict[date, CheckReport] | None:
    """Evaluate expectations by DuckDB; None if it does not know them, or cannot read the table or so many rows."""
    import duckdb
    from deltalake.exceptions import DeltaProtocolError

    started, delta = time.perf_counter(), open_table(settings, table, version=version)
    files = group_by_partition(active_files(delta), column)
    days = [night.isoformat() for night in nights]
    if sum(file.rows for day in days for file in files.get(day, ())) > _MAX_ROWS:
        return None
    try:
        data = open_dataset(delta, partitions=[(column, "in", days)])
    except DeltaProtocolError:
        return None
    with scratch_database(settings) as connection:
        connection.register("stored", data)
        types = {name: str(kind) for name, kind, *_ in connection.execute("DESCRIBE stored").fetchall()}
        require_columns(list(types), expectations, table)
        needed = {column, *(name for expectation in expectations for name in expectation.columns)}
        types = {name: kind for name, kind in types.items() if name in needed}
        connection.register("rows", read_few_ahead(data, list(types)))
        checks = plan_checks(expectations, types)
        if checks is None:
            return None
        try:
            found = evaluate(connection, "rows", checks, types, column=column, dates=nights)
        except duckdb.Error as error:
            if (damaged := as_damaged_error(error)) is not None:
                raise damaged from None
            logger.warning("Great Expectations checks %s on Spark, as DuckDB could not: %s", table, error)
            return None
    seconds, reports = (time.perf_counter() - started) / len(nights), {}
    for night, (rows, outcomes) in found.items():
        results = tuple(make_result(e, *o, rows) for e, o in zip(expectations, outcomes, strict=True))
        reports[night] = CheckReport(f"{table} for {night}", results, rows, seconds)
    return reports


def _validate_nights(
    frame: "DataFrame", table: str, expectations: Sequence[Expectation], column: str, nights: Sequence[date]
) -> dict[date, CheckReport]:
    """Validate dates together, and halve a failing range until the failing dates are found."""
    from pyspark.sql import functions as F

    left = _MAX_VALIDATIONS

    def check(some: Sequence[date]) -> dict[date, CheckReport]:
        nonlocal left
        left -= 1
        # Literals let Delta skip the other partitions' files; as text they cost one call of the JVM for all.
        dates = ", ".join(f"DATE '{night.isoformat()}'" for night in some)
        chosen = frame.where(F.expr(f"`{column}` IN ({dates})"))
        report = validate(chosen, expectations, name=f"{table} for {format_nights(some)}")
        if (report.success and not report.warnings) or len(some) == 1 or left < 2:
            return dict.fromkeys(some, report)
        middle = len(some) // 2
        return check(some[:middle]) | check(some[middle:])

    return check(nights)


def _fingerprint(expectations: Sequence[Expectation]) -> str:
    text = json.dumps([[e.type, dict(e.arguments), e.severity] for e in expectations], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
