"""Small tables as an earlier version wrote them, with the rows to be read of them; and processes that append."""

from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from dying import dies_at

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import lake_step
from forecache.kit.delta.small_tables import row_schema
from forecache.lake.ledger import StageRecord, append_records
from forecache.plugins.drift.measurements import Measurement

DAY = date(2026, 1, 1)
TODAY = {"stage_ledger": ("as_of", row_schema(StageRecord)), "monitoring": ("run_date", row_schema(Measurement))}
"""By table, the column that was `night`, and the columns of today."""


def some_rows(name: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Rows with the names of today; every fifth row of the ledger has no date."""
    at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    found = []
    for number in numbers:
        day = DAY + timedelta(days=number % 7 + number // 40)
        row: dict[str, Any] = dict.fromkeys(TODAY[name][1].names)
        if name == "stage_ledger":
            row |= {"stage": f"s{number % 2}", "subject": f"p{number % 3}", "as_of": day if number % 5 else None,
                    "inputs": f"{number}", "details": "{}", "table": "t", "delta_version": number,
                    "commit_version": number}  # fmt: skip
        else:
            row |= {"pipeline": f"p{number % 3}", "run_date": day, "as_of": day - timedelta(days=2), "rows": number}
        found.append(row | {"recorded_at": at + timedelta(minutes=number)})
    return found


def write_as_earlier(settings: Settings, name: str, rows: Sequence[dict[str, Any]], *, files: int = 1) -> None:
    """Append rows as the earlier version did, in so many commits: the date is in the column `night`."""
    column, schema = TODAY[name]
    table = pa.Table.from_pylist(list(rows), schema=schema).rename_columns({column: "night"})
    for number in range(files):
        some = table.take(list(range(number, len(table), files)))
        write_deltalake(settings.table_uri(name), some, mode="append", schema_mode="merge")


def counted(rows: Sequence[dict[str, Any]]) -> Counter[str]:
    """Rows whatever their order."""
    return Counter(str(sorted((key, str(value)) for key, value in row.items())) for row in rows)


def stored(settings: Settings, name: str) -> list[dict[str, Any]]:
    """The rows as a reader that knows nothing of names has them."""
    return DeltaTable(settings.table_uri(name)).to_pyarrow_table().to_pylist()


def append_one(home: Path, subject: str, step: str = "", times: int = 1) -> None:
    """Add a row to the ledger; with `step` this process dies when it comes to it for the so-many-th time."""
    if step:
        lake_step.on_step = dies_at(step, times)
    settings = load_settings(home=home, code_version="fixed")
    append_records(settings, [StageRecord("score", subject, DAY, "in", "t", 1, 1, 0.1)])


def append_at_once(home: Path, subject: str, barrier: Any) -> None:
    """Add a row to the ledger, and let the first attempt meet the other process's right before its commit."""
    is_waiting = True

    def meet(name: str) -> None:
        nonlocal is_waiting
        if is_waiting and name == "decided":
            is_waiting = False
            barrier.wait(120)

    lake_step.on_step = meet
    append_one(home, subject)
