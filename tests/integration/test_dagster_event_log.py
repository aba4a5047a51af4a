"""The batching event log stores what Dagster's own does, row for row, and a range of 500 days is quick."""

import sqlite3
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from forecache.base.settings import Settings
from jobs.schedules import partition_tags
from resources.instance import ensure_instance

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2025-06-01")
CHECKS = ("first", "second")


@dg.multi_asset(
    specs=[dg.AssetSpec("good"), dg.AssetSpec("bad")],
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec(name, asset="good", partitions_def=DAYS) for name in CHECKS],
)
def stage(context: dg.AssetExecutionContext) -> Iterator[Any]:
    from assets import checks

    for key in context.partition_keys:
        context.add_asset_metadata({"dagster/row_count": len(key)}, "good", key)
    yield dg.MaterializeResult("good", metadata={"seconds": 1})
    yield dg.MaterializeResult("bad")
    for name in CHECKS:
        verdicts = {
            date.fromisoformat(key): checks.CheckVerdict(key[-1] != "3", f"about {key}")
            for key in context.partition_keys
        }
        yield from checks.check_events(context, "good", name, verdicts)


def _run(home: Path, first: str, last: str) -> None:
    job = dg.Definitions(assets=[stage]).resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        tags = partition_tags(date.fromisoformat(first), date.fromisoformat(last))
        assert job.execute_in_process(
            instance=instance, tags=tags, run_id="11111111-1111-1111-1111-111111111111"
        ).success


def _rows(home: Path) -> dict[str, list[Any]]:
    with sqlite3.connect(home / "history" / "runs" / "index.db") as index:
        return {
            "events": index.execute(
                "select dagster_event_type, asset_key, partition, step_key from event_logs where asset_key is not null"
                " order by 1, 2, 3"
            ).fetchall(),
            "checks": index.execute(
                "select asset_key, check_name, partition, execution_status, materialization_event_storage_id is null"
                " from asset_check_executions order by 1, 2, 3"
            ).fetchall(),
            "assets": index.execute(
                "select asset_key, last_run_id, last_materialization is null from asset_keys order by 1"
            ).fetchall(),
        } | _run_rows(home)


def _run_rows(home: Path) -> dict[str, list[Any]]:
    with sqlite3.connect(home / "history" / "runs" / "11111111-1111-1111-1111-111111111111.db") as run:
        return {
            "run": run.execute(
                "select dagster_event_type, asset_key, partition, count(*) from event_logs"
                " where dagster_event_type is not null group by 1, 2, 3 order by 1, 2, 3"
            ).fetchall()
        }


@pytest.mark.parametrize(("first", "last"), [("2024-01-01", "2024-01-12"), ("2024-01-02", "2024-01-02")])
def test_stores_what_dagsters_own_storage_stores(settings: Settings, tmp_path: Path, first: str, last: str) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    batched = ensure_instance(settings)
    _run(own, first, last)
    _run(batched, first, last)
    expected, found = _rows(own), _rows(batched)
    assert found == expected
    assert any(status == "FAILED" for _, _, _, status, _ in found["checks"]) is (last > "2024-01-02")


@pytest.mark.slow
def test_a_range_of_500_days_costs_few_seconds(settings: Settings) -> None:
    home = ensure_instance(settings)
    started = time.process_time()
    _run(home, "2024-01-01", "2025-05-14")
    cpu_s = time.process_time() - started
    assert len(_rows(home)["checks"]) == 2 * 500
    # Processor time, which does not depend on what else runs: 4 s here, 25 s with Dagster's own storage.
    assert cpu_s < 12
