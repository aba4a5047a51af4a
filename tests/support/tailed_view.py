"""Payments of a few cards, and the tiles of a live view that a tailer makes of them."""

import random
from datetime import datetime, timezone
from typing import Any

import numpy as np
from live_view_sample import START, VIEW, Payment, random_payments, table_of
from stream_rows import MOMENT, StreamTable

from forecache.base.settings import Settings
from forecache.declare.features.live import build_merge_plan
from forecache.kit.windows.fold import event_states, fold
from forecache.serve.store import Store, open_store
from forecache.serve.store.keys import KeyColumn, KeySchema
from forecache.serve.store.live.layer import LiveLayer, write_layer
from forecache.serve.store.live.reader import LiveReader

PLAN = build_merge_plan(VIEW)
CARDS = 5
PAYMENTS = random_payments(random.Random(3), START, 2, 300, cards=CARDS)


def view_store(settings: Settings) -> Store:
    """The store of the view, with its live layer."""
    store = open_store(settings, VIEW.name)
    store.layout.create()
    key = KeySchema((KeyColumn("card", "int"),))
    layer = LiveLayer("cards", "stream_cards", "tiles", key, (), event_time="at", plan=PLAN.to_json())
    write_layer(store.layout, layer)
    return store


def view_stream(settings: Settings) -> StreamTable:
    """The table of the stream that feeds it."""
    columns = [(field.name, field.type) for field in table_of(PAYMENTS).schema]
    assert ("at", MOMENT) in columns
    return StreamTable(settings, "cards", columns, "at")


def rows(payments: list[Payment]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table_of(payments).to_pylist()
    return found


def folded(payments: list[Payment]) -> dict[bytes, bytes]:
    """The tiles of each card, all its events at once."""
    codes, times = np.array([p.card for p in payments]), np.array([p.at_us for p in payments])
    first = datetime(1970, 1, 1, tzinfo=timezone.utc).date()
    made = fold(
        PLAN, codes, times, event_states(PLAN, table_of(payments)), [None] * CARDS, None, None, first, see="nothing"
    )
    there = set(codes.tolist())
    return {str(card).encode(): entry for card, entry in enumerate(made.entries) if card in there}


def tiles(store: Store) -> dict[bytes, bytes]:
    with LiveReader(store.layout) as reader:
        found = {str(card).encode(): reader.get(str(card).encode()) for card in range(CARDS)}
    return {key: row.value for key, row in found.items() if row is not None}
