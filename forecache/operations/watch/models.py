"""Alerts about the gate's refusals, and models that wait for approval."""

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

from forecache.alerts.alert import Alert
from forecache.lake.delta.small_tables import read_rows
from forecache.registry.promotions import PROMOTION_TABLE
from forecache.registry.versions.models import WAITING
from forecache.settings import Settings

NEWS = timedelta(days=7)
"""Age up to which decisions are reported."""


def gate_decisions(settings: Settings) -> Iterator[Alert]:
    """An alert for each refusal of the gate, and each model that waits for approval, of the last days."""
    since = datetime.now(timezone.utc) - NEWS
    for row in read_rows(settings, PROMOTION_TABLE, [("action", "=", "gate"), ("recorded_at", ">=", since)]):
        version = row["candidate"] if row["candidate"] is not None else row["to_version"]
        name, champion = row["pipeline"], row["from_version"]
        details = {"version": version, "champion": champion, "run_id": row["run_id"]}
        # A version may be judged several times.
        occasion = f"{version}, decision {row['position']}"
        if row["verdict"] == "failed":
            stays = f" Version {champion} stays the champion." if champion else ""
            summary = f"The gate refused version {version} of {name}: {_sentence(row)}{stays}"
            yield Alert("gate_refused", name, "warning", summary, details, row["recorded_at"], occasion)
        elif row["verdict"] == WAITING:
            summary = f"Version {version} of {name} waits for approval: {_sentence(row)}"
            yield Alert("approval_awaited", name, "info", summary, details, row["recorded_at"], occasion)


def _sentence(row: dict[str, Any]) -> str:
    return f"{str(row['reason']).rstrip('.')}."
