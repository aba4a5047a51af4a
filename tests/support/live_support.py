"""Rows of a live layer and a store that has one, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from reader_support import FIELDS, STRING_KEY

from forecache.store import Store
from forecache.store.layout import Layout
from forecache.store.live.layer import LiveLayer, write_layer
from forecache.store.live.rows import LiveRow

LAYER = LiveLayer("cards", "stream_cards", "rows", STRING_KEY, FIELDS)
NOON_US = 898_603_200_000_000
"""1998-06-23 12:00 UTC."""


def live_store(store_path: Path, name: str = "churn", layer: LiveLayer = LAYER) -> Layout:
    """A store with a live layer and no version."""
    layout = Store(store_path / name).layout
    layout.create()
    write_layer(layout, layer)
    return layout


def live_row(
    position: int, value: Any = 0, *, event_us: int = NOON_US, provenance: Mapping[str, Any] | None = None
) -> LiveRow:
    """A row; a number stands for a value of FIELDS."""
    fields = value if isinstance(value, dict) else {"churn_probability": float(value), "risk_segment": "streamed"}
    return LiveRow(position, event_us, orjson.dumps(fields), orjson.dumps(provenance) if provenance else b"")
