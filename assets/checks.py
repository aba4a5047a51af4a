"""The framework's verdicts as Dagster asset checks: one evaluation for each as-of date, with a reason in a sentence."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg

from assets.views import report_view
from forecache.base.errors import CheckError
from forecache.lake.quality.expectations import EXPECTATIONS, WARNINGS
from forecache.lake.quality.validate import CheckReport
from resources.dagster_internals import AssetCheckEvaluationTargetMaterializationData as Target
from resources.session import current_session


@dataclass(frozen=True)
class CheckVerdict:
    """One evaluation of a check, with the reason why it passed or failed."""

    passed: bool
    reason: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR


def expectation_specs(asset: str, partitions: dg.PartitionsDefinition[str], *, about: str) -> list[dg.AssetCheckSpec]:
    """A blocking check of the critical expectations, and a check of the warnings that never blocks."""
    return [
        dg.AssetCheckSpec(EXPECTATIONS, asset=asset, blocking=True, partitions_def=partitions, description=about),
        dg.AssetCheckSpec(
            WARNINGS,
            asset=asset,
            partitions_def=partitions,
            description="Expectations declared as warnings. One that fails is shown and holds nothing up.",
        ),
    ]


def expectation_verdicts(reports: Mapping[date, CheckReport]) -> dict[str, dict[date, CheckVerdict]]:
    """The verdicts of both checks of `expectation_specs`."""
    critical = {night: CheckVerdict(r.success, r.sentence, report_view(r, "critical")) for night, r in reports.items()}
    warnings = {
        night: CheckVerdict(
            not r.warnings,
            " ".join(w.sentence for w in r.warnings) or "No warning.",
            report_view(r, "warning"),
            dg.AssetCheckSeverity.WARN,
        )
        for night, r in reports.items()
    }
    return {EXPECTATIONS: critical, WARNINGS: warnings}


def expectation_events(
    context: dg.AssetExecutionContext, asset: str, reports: Mapping[date, CheckReport]
) -> Iterator[Any]:
    """The evaluations of both checks of `expectation_specs`."""
    for check, verdicts in expectation_verdicts(reports).items():
        yield from check_events(context, asset, check, verdicts, blocking=check == EXPECTATIONS)


def check_events(
    context: dg.AssetExecutionContext,
    asset: str,
    check: str,
    verdicts: Mapping[date, CheckVerdict],
    *,
    blocking: bool = False,
    others: Mapping[date, CheckVerdict] | None = None,
) -> Iterator[Any]:
    """Evaluations of a partitioned check, to be yielded after the asset's MaterializeResult.

    Dagster sets the partition of a check result only in a run of one partition; in a run of a range it is set here.

    Args:
        verdicts: By as-of date of the run; dates that the check does not apply to are left out.
        others: Verdicts on as-of dates that are not in this run.
    """
    yield from check_evaluations(context, asset, check, others or {}, blocking=False)
    if context.has_partition_key and verdicts:
        (verdict,) = verdicts.values()
        yield check_result(asset, check, verdict, blocking=blocking)
        return
    failed = [verdict for verdict in verdicts.values() if not verdict.passed]
    if failed:
        report_to_session(failed[0], blocking=blocking)
    yield from check_evaluations(context, asset, check, verdicts, blocking=blocking)
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    outputs = context.assets_def.check_specs_by_output_name
    yield dg.Output(None, next(name for name, spec in outputs.items() if spec.key == key))


def check_evaluations(
    context: dg.AssetExecutionContext, asset: str, check: str, verdicts: Mapping[date, CheckVerdict], *, blocking: bool
) -> Iterator[dg.AssetCheckEvaluation]:
    """A partitioned check's verdicts as events, each about the newest materialization of its as-of date."""
    key = dg.AssetKey(asset)
    targets = context.instance.event_log_storage.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, {night.isoformat() for night in verdicts}
    )
    now = time.time()
    for night, verdict in verdicts.items():
        storage_id = targets.get(night.isoformat())
        target = Target(storage_id=storage_id, run_id=context.run_id, timestamp=now) if storage_id else None
        yield dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=check,
            passed=verdict.passed,
            metadata=verdict.metadata,
            severity=verdict.severity,
            description=verdict.reason,
            blocking=blocking,
            partition=night.isoformat(),
            target_materialization_data=target,
        )


def check_result(asset: str, check: str, verdict: CheckVerdict, *, blocking: bool = False) -> dg.AssetCheckResult:
    """A verdict as the result of a check of one partition or of none; `blocking` as in the check's specification."""
    if not verdict.passed:
        report_to_session(verdict, blocking=blocking)
    return dg.AssetCheckResult(
        passed=verdict.passed,
        asset_key=asset,
        check_name=check,
        metadata=verdict.metadata,
        severity=verdict.severity,
        description=verdict.reason,
    )


def report_to_session(verdict: CheckVerdict, *, blocking: bool) -> None:
    """Give the session the reason of a failed check: as the run's error if the check blocks, else as an objection."""
    session = current_session()
    if session and blocking and verdict.severity == dg.AssetCheckSeverity.ERROR:
        session.error = CheckError(verdict.reason, remedy="What was published stays. Mend the cause and run again.")
    elif session and verdict.severity == dg.AssetCheckSeverity.ERROR:
        session.objections.append(verdict.reason)
