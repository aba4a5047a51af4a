"""Pending landing files of an asset's sources: they are ingested first, and a day that fails a check stops the run."""

from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

from assets import checks
from assets.raw import BLOCKING, day_verdicts, extract_days, ingest_days, record_days
from assets.stage import RunStep
from forecache.declare import AnySource, Source, TableSource

if TYPE_CHECKING:
    from forecache.lake.ingest.ingested_files import IngestedFile

_EVALUATION = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value


def ingest_pending_files(step: RunStep, source: AnySource, *, last: date) -> None:
    """Ingest the pending landing files of a source up to a day, in the step of an asset that reads it.

    Days that were ingested and not checked since, such as by a run that was killed in between, are checked here. For an
    existing table there is nothing to do.

    Raises:
        CheckError: A blocking check refuses a day up to `last`, in this run or since an earlier one.
    """
    from forecache.base.errors import CheckError
    from forecache.lake.ingest.ingested_files import ingested_files
    from forecache.lake.ingest.landing import list_landing
    from forecache.lake.ingest.pending import files_to_ingest, pending_days
    from forecache.lake.quality.raw_days import raw_verdicts
    from forecache.lake.sources.days_to_extract import days_to_extract

    if isinstance(source, TableSource):
        return
    extract_days(step, source, days_to_extract(step.settings, source, first=source.start, last=last))
    files, known = ingested_files(step.settings, source), raw_verdicts(step.settings, source)
    landed = list_landing(step.settings, source)
    # A database can be queried again, and its new answers replace the files.
    correctable = {file.day for file in landed if file.day} if source.extract else known.refused_days
    waiting = files_to_ingest(step.settings, source, landed, files, correctable=correctable)
    days = pending_days(waiting, first=source.start, last=last)
    if days:
        try:
            ingest_days(step, source, days, correctable=correctable)
        finally:
            files = ingested_files(step.settings, source)
            record_days(step, source, files)
    standing = known.current_verdicts(files, last=last)
    refused = {day: reason for day, reason in standing.items() if reason}
    unjudged = {file.event_day for file in files if file.event_day and file.event_day <= last} - standing.keys()
    refused |= _check_days(step, source, unjudged, files)
    if refused:
        day, reason = min(refused.items())
        raise CheckError(
            reason,
            remedy=f"Correct the landing files of {day} or the declaration of source {source.name!r}, and run again: "
            "the files of a refused day are read anew.",
        )


def _check_days(
    step: RunStep, source: Source, days: Collection[date], files: Sequence["IngestedFile"]
) -> dict[date, str]:
    """Check days outside their own asset's step; returns those that a blocking check refuses, with the reason."""
    refused: dict[date, str] = {}
    if not days:
        return refused
    context = step.context
    for check, verdicts in day_verdicts(step, source, days, files).items():
        for event in checks.check_evaluations(context, source.raw_table, check, verdicts, blocking=check in BLOCKING):
            # Reported for this run: outside of runs Dagster accepts only one evaluation of a day, ever.
            report = dg.DagsterEvent(_EVALUATION, context.job_name, event_specific_data=event)
            context.instance.report_dagster_event(report, run_id=context.run_id)
        refused |= {day: v.reason for day, v in verdicts.items() if check in BLOCKING and not v.passed}
    return refused
