"""What the store's tests share: a pipeline that needs no model, and nights of predictions written through delta-rs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timezone
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from forecache.base.settings import Settings
from forecache.declare import (
    Baseline,
    Column,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Publish,
    Segment,
    Source,
    TorchModel,
)
from forecache.kit.delta.comparison.partition import partition_digests
from forecache.lake.ledger import StageRecord, append_records
from forecache.lake.quality.validate import CheckReport, CheckResult
from forecache.lake.quality.verdicts import STAGE

NIGHT = date(1998, 6, 30)
NEXT_NIGHT = date(1998, 7, 1)
SCORED_AT = datetime(1998, 7, 1, 3, tzinfo=timezone.utc)
OPEN_RULES = Publish(max_row_change=None, max_null_share=1.0, max_psi=None)
"""No gate says no; tests of gates set their own."""


def _unused(*_: Any) -> Any:
    raise AssertionError("the store calls no function of a pipeline")


def churn(key: Sequence[str] = ("customer_id",), rules: Publish = OPEN_RULES, **changes: Any) -> Pipeline:
    """A pipeline that serves `churn_probability` (double) and `risk_segment` (string)."""
    columns = (*(Column(name, "string") for name in key), Column("bought_on", "date"))
    pipeline = Pipeline(
        name="churn",
        key=tuple(key),
        sources=(Source("purchases", columns, event_time="bought_on", start=date(1997, 1, 1)),),
        features=Features(compute=_unused, columns=(Feature("recency"),)),
        label=Label("churned", "binary", 90, compute=_unused),
        model=TorchModel(build=_unused),
        outputs=(Output("churn_probability"),),
        segments=(Segment("risk_segment", "churn_probability", (0.5,), ("low", "high")),),
        gate=Gate("roc_auc", {}, Baseline("recency")),
        publish=rules,
    )
    return replace(pipeline, **changes)


def predictions(
    scores: Mapping[str, float | None],
    *,
    night: date = NIGHT,
    run_id: str = "run-1",
    scored_at: datetime = SCORED_AT,
    model_version: int = 3,
    keys: Mapping[str, pa.Array] | None = None,
) -> pa.Table:
    """A prediction table of one night; the segment follows the score. `keys` replaces the key column by others."""
    rows = len(scores)
    values = list(scores.values())
    segments = [None if value is None else "high" if value >= 0.5 else "low" for value in values]
    return pa.table(
        {
            **(keys or {"customer_id": pa.array(list(scores), pa.string())}),
            "as_of": pa.array([night] * rows, pa.date32()),
            "churn_probability": pa.array(values, pa.float64()),
            "risk_segment": pa.array(segments, pa.string()),
            "model_name": pa.array(["churn"] * rows, pa.string()),
            "model_version": pa.array([model_version] * rows, pa.int32()),
            "feature_version": pa.array([7] * rows, pa.int64()),
            "scored_at": pa.array([scored_at] * rows, pa.timestamp("us", "UTC")),
            "run_id": pa.array([run_id] * rows, pa.string()),
        }
    )


def write_night(settings: Settings, table: pa.Table, *, night: date = NIGHT) -> None:
    """Replace a night of the prediction table, as scoring does."""
    uri = settings.table_uri("predictions_churn")
    if DeltaTable.is_deltatable(uri):
        write_deltalake(uri, table, mode="overwrite", predicate=f"as_of = '{night}'")
    else:
        append(settings, table)


def append(settings: Settings, table: pa.Table) -> None:
    write_deltalake(
        settings.table_uri("predictions_churn"),
        table,
        mode="append",
        partition_by=["as_of"],
        configuration={"delta.enableChangeDataFeed": "true"},
    )


def upsert(settings: Settings, table: pa.Table) -> None:
    """Merge rows into the prediction table by key and night."""
    (
        prediction_table(settings)
        .merge(
            table,
            "s.customer_id = t.customer_id and s.as_of = t.as_of",
            source_alias="s",
            target_alias="t",
        )
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .execute()
    )


def prediction_table(settings: Settings) -> DeltaTable:
    return DeltaTable(settings.table_uri("predictions_churn"))


def scores(count: int, *, start: int = 0) -> dict[str, float]:
    """`count` keys `00000`, `00001` ... with scores that differ."""
    return {f"{number:05d}": (number * 7919 % 10007) / 10007 for number in range(start, start + count)}


def record_check(settings: Settings, *, night: date = NIGHT, problem: str = "") -> None:
    """Record the verdict of a check of a night as its rows are now: passed, or failed with a problem's sentence."""
    digest = partition_digests(prediction_table(settings), "as_of", [night])[night]
    found = CheckResult("expect_unique", "customer_id", "critical", not problem, problem or "Every key is there once.")
    report = CheckReport("predictions_churn", (found,), 1, 0.1)
    table = "predictions_churn"
    append_records(settings, [StageRecord(STAGE, table, night, f"{digest} rules", table, -1, 1, 0.1, report.to_dict())])
