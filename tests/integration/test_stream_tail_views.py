"""The tailer folds the rows of a stream into the tiles of a live view, the same in whatever commits they come."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from live_view_sample import START, VIEW, table_of
from stream_rows import StreamTable
from tailed_view import CARDS, PAYMENTS, PLAN, folded, rows, tiles, view_store, view_stream
from tailing import follow

from forecache.base.settings import Settings
from forecache.declare.streams.merge_plan import build_merge_plan
from forecache.kit.windows.fold import event_states, fold
from forecache.serve.store import Store
from forecache.serve.store.live.layer import read_tail_state, write_layer
from forecache.serve.store.live.reader import LiveReader
from forecache.stream.tail.tailer import Tailer


@pytest.fixture
def store(settings: Settings) -> Store:
    return view_store(settings)


@pytest.fixture
def stream(settings: Settings) -> StreamTable:
    return view_stream(settings)


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

    from forecache.serve.store.live.layer import read_layer

    stream.commit(rows(PAYMENTS[:200]))
    with Tailer(stream.settings) as tailer:
        follow(tailer)
    others = tuple(window for window in VIEW.windows if window.name not in ("max_20m", "max_2d"))
    changed = build_merge_plan(replace(VIEW, windows=others))
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
