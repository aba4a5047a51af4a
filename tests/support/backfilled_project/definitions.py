"""Two tables and a store, made by stages of the framework that need no Spark: what many runs at once are tried with.

Scoring waits as long as there is the file that BACKFILL_HOLD names.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from store_tables import churn, predictions, scores

from assets.metadata import stage_metadata
from assets.published import build_published
from assets.stage import RunStep, explain_errors
from forecache.base.results import Progress, StageResult
from forecache.base.settings import Settings, load_settings
from forecache.declare import AS_OF
from forecache.kit.delta.comparison.partition import partition_digests
from forecache.kit.delta.partitions import take_snapshot
from forecache.kit.delta.tables import open_table
from forecache.kit.delta.writers import write_rows
from forecache.lake.quality.validate import CheckReport, CheckResult
from forecache.lake.quality.verdicts import STAGE as CHECK
from forecache.lake.stage_runner import Stage, StageOutcome, hold_table_lock, write_stale_partitions
from resources.instance import SPARK_POOL
from resources.settings_resource import SettingsResource

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-31")
CHURN = churn()
FEATURES, PREDICTIONS = CHURN.feature_table, CHURN.prediction_table
JOB = "churn_nightly"


def feature_rows(night: date) -> pa.Table:
    keys = list(scores(300, start=night.day))
    visits = pa.array([int(key) % 17 for key in keys], pa.int64())
    return pa.table({"customer_id": keys, AS_OF: pa.array([night] * len(keys), pa.date32()), "visits": visits})


def prediction_rows(night: date) -> pa.Table:
    return predictions(scores(300, start=night.day), night=night)


ROWS: Mapping[str, Callable[[date], pa.Table]] = {FEATURES: feature_rows, PREDICTIONS: prediction_rows}


def write_nights(
    settings: Settings, table: str, stage_name: str, nights: Sequence[date], *, run_id: str, progress: Progress
) -> StageResult:
    """Write the stale dates of a table, and record that they passed their checks."""
    from deltalake import Schema

    stage = Stage(settings, stage_name, CHURN.name, run_id)
    with hold_table_lock(settings, table, run_id, progress):

        def write(some: Sequence[date]) -> Any:
            rows = pa.concat_tables([ROWS[table](night) for night in some])
            return Schema.from_arrow(rows.schema), write_rows(rows, settings, table, partition_by=[AS_OF])

        records, built = write_stale_partitions(
            stage, table, {night: f"{table} {night}" for night in nights}, write, column=AS_OF,
            seen=take_snapshot(settings, table, AS_OF), at_once=4, rebuild=False, progress=progress, about=table,
        )  # fmt: skip
    states = partition_digests(open_table(settings, table), AS_OF, list(nights))
    passed = CheckReport(table, (CheckResult("expect_unique", "customer_id", "critical", True, "Each once."),), 1, 0.1)
    outcomes = {night: StageOutcome(1, passed.to_dict(), table) for night in nights}
    Stage(settings, CHECK, table, run_id).record_changes({n: f"{states[n]} rules" for n in nights}, outcomes, 0.1)
    return stage.result(sum(row.rows for row in records.values()), nights=nights, skipped=not built, details={})


def build_table(table: str, stage_name: str, deps: Sequence[str] = ()) -> dg.AssetsDefinition:
    @dg.asset(name=table, deps=deps, partitions_def=DAYS, pool=SPARK_POOL)
    @explain_errors
    def write_table(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        step = RunStep(context, settings.load())
        print(f"writing {table}")
        while stage_name == "score" and Path(os.environ.get("BACKFILL_HOLD", "no file")).exists():
            time.sleep(0.1)
        result = step.run_stage(write_nights, step.settings, table, stage_name, step.nights)
        yield dg.MaterializeResult(metadata=stage_metadata(step.settings, result))

    return write_table


@dg.definitions
def defs() -> dg.Definitions:
    settings = load_settings()
    assets = [build_table(FEATURES, "features"), build_table(PREDICTIONS, "score", [FEATURES]), build_published(CHURN)]
    job = dg.define_asset_job(JOB, selection=assets, executor_def=dg.in_process_executor)
    resource = SettingsResource(home=str(settings.home_path), project=settings.project)
    return dg.Definitions(assets=assets, jobs=[job], resources={"settings": resource})
