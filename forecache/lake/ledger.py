"""The stage ledger: one row for every stage that did work, so that a later run knows what is still current.

A stage states what its result depends on as an `inputs` string. It is current for a night where the last row has
the same inputs; then running it again does nothing. Rows are only ever appended.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from typing import Any

from forecache.lake.code import code_version
from forecache.lake.tables import append_rows, open_table, table_exists
from forecache.settings import Settings

LEDGER_TABLE = "stage_ledger"


@dataclass(frozen=True)
class StageRecord:
    """One row of the ledger.

    Attributes:
        night: The night the row is about, None for a stage without nights.
        inputs: What the result depends on; equal inputs mean an equal result.
        delta_version: Delta version of `table` that the stage committed, -1 where it wrote none.
        details: JSON-serialisable figures.
    """

    stage: str
    subject: str
    night: date | None
    inputs: str
    table: str
    delta_version: int
    rows: int
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)
    code_version: str = ""
    run_id: str = ""
    recorded_at: datetime | None = None


def record(settings: Settings, records: Sequence[StageRecord]) -> None:
    """Append rows; `recorded_at` and `code_version` are filled in."""
    if not records:
        return
    import pyarrow as pa

    now, version = datetime.now(timezone.utc), code_version(settings)
    rows = [
        {
            **vars(row),
            "details": json.dumps(dict(row.details), default=str),
            "code_version": version,
            "recorded_at": now,
        }
        for row in records
    ]
    append_rows(settings, LEDGER_TABLE, pa.Table.from_pylist(rows, schema=_schema()))


def last_records(settings: Settings, stage: str, subject: str) -> dict[date | None, StageRecord]:
    """The latest row of each night for one stage of one pipeline or source; empty where there is none."""
    if not table_exists(settings, LEDGER_TABLE):
        return {}
    table = open_table(settings, LEDGER_TABLE).to_pyarrow_table(
        filters=[("stage", "=", stage), ("subject", "=", subject)]
    )
    rows = table.sort_by("recorded_at").to_pylist()
    return {row["night"]: StageRecord(**{**row, "details": json.loads(row["details"])}) for row in rows}


def last_record(settings: Settings, stage: str, subject: str, night: date | None = None) -> StageRecord | None:
    """The latest row of one night, None where there is none."""
    return last_records(settings, stage, subject).get(night)


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("stage", pa.string()),
            ("subject", pa.string()),
            ("night", pa.date32()),
            ("inputs", pa.string()),
            ("table", pa.string()),
            ("delta_version", pa.int64()),
            ("rows", pa.int64()),
            ("seconds", pa.float64()),
            ("details", pa.string()),
            ("code_version", pa.string()),
            ("run_id", pa.string()),
            ("recorded_at", pa.timestamp("us", tz="UTC")),
        ]
    )
