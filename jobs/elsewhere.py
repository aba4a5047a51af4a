"""Runs without Dagster in Dagster's UI: a sensor that reports from the stage ledger what they have built."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone

import dagster as dg

from forecache.kit.process.wakes import RUNS_ELSEWHERE
from forecache.lake.ledger import StageRecord, records_after, records_since
from resources.settings_resource import SettingsResource

_MOST = 1_000
"""About the most rows of the ledger that one call reports; the next one goes on."""
_FIRST_LOOK = timedelta(days=1)
_WITHOUT_DATES = {"publish": "published", "release": "released"}
"""The assets of stages that write no partition of a table, by the beginning of their names."""


def build_elsewhere_sensor() -> dg.SensorDefinition:
    """The sensor that reports the stages of runs without Dagster as materializations."""

    @dg.sensor(
        name="runs_without_dagster",
        minimum_interval_seconds=int(RUNS_ELSEWHERE.every_s),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Shows what `forecache run` has built without Dagster, as materializations of the tables' dates.",
    )
    def report_stages(
        context: dg.SensorEvaluationContext, settings: SettingsResource
    ) -> dg.SensorResult | dg.SkipReason:
        current = settings.load()
        if context.cursor:
            rows = records_after(current, int(context.cursor))
        else:
            rows = records_since(current, datetime.now(timezone.utc) - _FIRST_LOOK)
        if not rows:
            return dg.SkipReason("The ledger has no new rows.")
        assert context.repository_def is not None, "a sensor is evaluated with the definitions that it is among"
        # Tables of intermediate results, such as the tiles of windows, are no assets.
        defined = context.repository_def.asset_graph.get_all_asset_keys()
        built = [row for row in rows if _asset_of(row) in defined]
        last = (built[:_MOST] if len(built) > _MOST else rows)[-1].commit_version
        # The rows of a commit are reported together.
        events = list(_report_rows(context.instance, [row for row in built if row.commit_version <= last]))
        return dg.SensorResult(asset_events=events, cursor=str(last))

    return report_stages


def _asset_of(row: StageRecord) -> dg.AssetKey | None:
    """The asset that a row of the ledger is about; None for a row about none, such as that of a check."""
    if row.as_of is not None and row.delta_version >= 0:
        return dg.AssetKey(row.table)
    return dg.AssetKey(f"{_WITHOUT_DATES[row.stage]}_{row.subject}") if row.stage in _WITHOUT_DATES else None


def _report_rows(instance: dg.DagsterInstance, rows: Sequence[StageRecord]) -> Iterator[dg.AssetMaterialization]:
    """Yield a materialization for each date of a table, version and release that a run without Dagster has built."""
    of_dagster = {run_id: instance.has_run(run_id) for run_id in {row.run_id for row in rows} if run_id}
    for row in rows:
        asset = _asset_of(row)
        if asset is not None and not of_dagster.get(row.run_id, True):
            yield dg.AssetMaterialization(
                asset,
                partition=str(row.as_of) if row.delta_version >= 0 else None,
                metadata={"dagster/row_count": row.rows, "run_id": row.run_id, "seconds": row.seconds},
            )
