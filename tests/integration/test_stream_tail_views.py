"""The tailer folds the rows of a stream into the tiles of a live view, the same in whatever commits they come."""

import random
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from live_view_sample import START, VIEW, Payment, random_payments, table_of
from stream_rows import MOMENT, StreamTable
from tailing import compare_now, environment_of, follow

from forecache.pipeline.streams.plan import plan_of
from forecache.settings import Settings
from forecache.store import Store, open_store
from forecache.store.keys import KeyColumn, KeySchema
from forecache.store.live.layer import LiveLayer, write_layer
from forecache.store.live.reader import LiveReader
from forecache.store.live.rows import row_of
from forecache.store.live.tail_state import read_tail_state
from forecache.stream.tail.run import Tailer
from forecache.windows.event_states import event_states
from forecache.windows.fold import fold

PLAN = plan_of(VIEW)
CARDS = 5
PAYMENTS = random_payments(random.Random(3), START, 2, 300, cards=CARDS)


@pytest.fixture
def store(settings: Settings) -> Store:
    store = open_store(settings, VIEW.name)
    store.layout.create()
    key = KeySchema((KeyColumn("card", "int"),))
    layer = LiveLayer("cards", "stream_cards", "tiles", key, (), event_time="at", plan=PLAN.to_json())
    write_layer(store.layout, layer)
    return store


@pytest.fixture
def stream(settings: Settings) -> StreamTable:
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


def test_tiles_are_those_of_all_events_whatever_commits_they_came_in(store: Store, stream: StreamTable) -> None:
    settings_of = stream.settings
    start = 0
    for size in (1, 7, 80, 2, 110):
        stream.commit(rows(PAYMENTS[start : start + size]))
        start += size
        with Tailer(settings_of) as tailer:
            follow(tailer)
        assert tiles(store) == folded(PAYMENTS[:start])
    stream.compact()
    stream.commit(rows(PAYMENTS[start:]))
    stream.forget_log()
    with Tailer(settings_of) as tailer:
        follow(tailer)
    assert tiles(store) == folded(PAYMENTS)
    with LiveReader(store.layout) as reader:
        row = reader.get(str(PAYMENTS[-1].card).encode())
    assert row is not None
    assert (row.event_us, row.position) == (PAYMENTS[-1].at_us, stream.version)


def test_tiles_that_differ_from_the_events_are_found_and_made_anew(store: Store, stream: StreamTable) -> None:
    stream.commit(rows(PAYMENTS[:200]))
    with Tailer(stream.settings) as tailer:
        follow(tailer)
        (follower,) = tailer._followers.values()
        compare_now(tailer)
        assert (read_tail_state(store.layout).differed, follower.writer.verified_through) == (0, 0)
        key = str(PAYMENTS[0].card).encode()
        other = folded([payment for payment in PAYMENTS[:100] if payment.card == PAYMENTS[0].card])[key]

        def change(transaction: Any) -> None:
            record = transaction.get(key)
            transaction.put(key, record[: len(record) - len(row_of(record).value)] + other)

        with environment_of(store.layout) as environment:
            environment.write(change)
        compare_now(tailer)
        state = read_tail_state(store.layout)
        assert state.differed == 1
        assert "the tiles of 1 of 5 keys are not those of its events" in state.difference
        assert tiles(store) == folded(PAYMENTS[:200])
        compare_now(tailer)
        assert read_tail_state(store.layout).differed == 1


def test_keys_without_an_event_since_the_smallest_night_leave_the_layer(store: Store, stream: StreamTable) -> None:
    from reader_support import write_version

    old = [payment for payment in PAYMENTS if payment.card == 0 and payment.day == PAYMENTS[0].day]
    new = [payment for payment in PAYMENTS if payment.card == 1 and payment.day != PAYMENTS[0].day]
    stream.commit(rows([*old, *new]))
    night = START + timedelta(days=1)
    write_version(store.layout.root.parent, VIEW.name, {}, as_of=night.isoformat(), stream="cards")
    with Tailer(stream.settings) as tailer:
        follow(tailer)
    assert tiles(store).keys() == {b"1"}


def test_a_layer_whose_declaration_changes_is_made_anew(store: Store, stream: StreamTable) -> None:
    from dataclasses import replace

    from forecache.store.live.layer import read_layer

    stream.commit(rows(PAYMENTS[:200]))
    with Tailer(stream.settings) as tailer:
        follow(tailer)
    others = tuple(window for window in VIEW.windows if window.name not in ("max_20m", "max_2d"))
    changed = plan_of(replace(VIEW, windows=others))
    assert changed.id != PLAN.id
    layer = read_layer(store.layout)
    assert layer is not None
    write_layer(store.layout, replace(layer, plan=changed.to_json()))
    stream.commit(rows(PAYMENTS[200:]))
    with Tailer(stream.settings) as tailer:
        follow(tailer)
        assert read_tail_state(store.layout).failure == ""
    codes, times = np.array([p.card for p in PAYMENTS]), np.array([p.at_us for p in PAYMENTS])
    first = datetime(1970, 1, 1, tzinfo=timezone.utc).date()
    made = fold(
        changed, codes, times, event_states(changed, table_of(PAYMENTS)), [None] * CARDS, None, None, first,
        see="nothing",
    )  # fmt: skip
    assert tiles(store) == {str(card).encode(): entry for card, entry in enumerate(made.entries)}
