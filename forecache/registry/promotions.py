"""The promotion ledger: an append-only Delta table of every decision about which model is the champion."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from forecache.lake.ledger import code_version
from forecache.lake.tables import append_rows, open_table, table_exists
from forecache.settings import Settings

PROMOTION_TABLE = "promotion_ledger"


@dataclass(frozen=True)
class Promotion:
    """One decision.

    Attributes:
        action: "gate", "promote" or "rollback".
        actor: Who or what decided.
        from_version: The champion before, None where there was none.
        to_version: The champion after; equal to `from_version` where the decision was to leave it.
        candidate: The version that was judged, where that is not `to_version`.
        verdict: "passed", "failed" or "awaiting_approval".
        reason: The verdict in a line.
        metrics: The judged version's test metrics.
        training_table, training_version: What it was trained and judged on.
    """

    pipeline: str
    action: str
    actor: str
    from_version: int | None
    to_version: int | None
    verdict: str
    reason: str
    training_table: str
    training_version: int
    recorded_at: datetime
    candidate: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    code_version: str = ""
    run_id: str = ""


def record_promotion(settings: Settings, entry: Promotion) -> None:
    """Append a decision; `code_version` is filled in."""
    import pyarrow as pa

    values = {**vars(entry), "metrics": json.dumps(dict(entry.metrics)), "code_version": code_version(settings)}
    append_rows(settings, PROMOTION_TABLE, pa.Table.from_pylist([values], schema=_schema()))


def promotions(settings: Settings, pipeline: str) -> list[Promotion]:
    """The decisions about a pipeline's model, oldest first."""
    if not table_exists(settings, PROMOTION_TABLE):
        return []
    rows = open_table(settings, PROMOTION_TABLE).to_pyarrow_table(filters=[("pipeline", "=", pipeline)])
    return [
        Promotion(**{**row, "metrics": json.loads(row["metrics"])}) for row in rows.sort_by("recorded_at").to_pylist()
    ]


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("recorded_at", pa.timestamp("us", tz="UTC")),
            ("pipeline", pa.string()),
            ("action", pa.string()),
            ("actor", pa.string()),
            ("from_version", pa.int32()),
            ("to_version", pa.int32()),
            ("candidate", pa.int32()),
            ("verdict", pa.string()),
            ("reason", pa.string()),
            ("metrics", pa.string()),
            ("training_table", pa.string()),
            ("training_version", pa.int64()),
            ("code_version", pa.string()),
            ("run_id", pa.string()),
        ]
    )
