"""Rows of a live layer and a store that has one, for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from reader_support import FIELDS, STRING_KEY

from forecache.serve.store import Store
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.layer import LiveLayer, LiveRow, write_layer
from forecache.serve.store.live.writer import open_live_writer

LAYER = LiveLayer("cards", "stream_cards", "rows", STRING_KEY, FIELDS)
NOON_US = 898_603_200_000_000
"""1998-06-23 12:00 UTC."""


def live_store(store_path: Path, name: str = "churn", layer: LiveLayer = LAYER) -> StoreLayout:
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


def rows_of(version: int) -> list[tuple[bytes, LiveRow]]:
    """Rows of a Delta version, some of them of keys that other versions have, too."""
    return [(b"k%d" % (version * step % 500), live_row(version, version * 1000 + step)) for step in range(1, 120)]


def apply_versions(root: Path, versions: int, told: Any) -> None:
    """Apply the versions that a live layer does not have, and prune; tells first which one it had."""
    with open_live_writer(Store(root).layout, map_bytes=1 << 16) as writer:
        told.send(writer.applied)
        for version in range(writer.applied + 1, versions):
            writer.apply(version, rows_of(version))
            if version % 7 == 0:
                writer.prune(version - 40, most=100)
