"""Rows of the stage ledger and prices, from which costs are computed."""

from datetime import date
from typing import Any

from forecache.base.settings import Settings
from forecache.lake.ledger import StageRecord, append_records

NIGHT = date(2026, 1, 1)
PRICES = {"cpu": (0.04, 0.01), "H100": (3.0, 1.0), "replica": (0.05, 0.02), "storage": (0.08, 0.02)}


def row(stage: str, subject: str = "churn", *, rows: int = 0, seconds: float = 0.0, **details: Any) -> StageRecord:
    return StageRecord(stage, subject, NIGHT, "i", "", -1, rows, seconds, details)


def trained(device_s: float, wasted_s: float, device: str = "NVIDIA H100 80GB HBM3") -> StageRecord:
    cost = {"attempts": 2, "device_s": device_s, "wasted_s": wasted_s, "steps_repeated": 5}
    return row("train", device_name=device, cost=cost)


def written(settings: Settings) -> None:
    append_records(
        settings, [row("score", rows=2_000_000, seconds=900.0, cost={"core_s": 3600.0}), trained(3600.0, 360.0)]
    )
    folder = settings.store_path / "churn"
    folder.mkdir(parents=True)
    (folder / "segment").write_bytes(b"x" * 1_000_000)
