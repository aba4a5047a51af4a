"""Live views: what is merged when they are read is what plain Python, and a night of that moment, would have."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_view_sample import (
    EPOCH,
    MINUTE_US,
    START,
    VIEW,
    WINDOWS,
    Payment,
    features_at,
    random_payments,
    table_of,
    us,
)

from forecache.base.errors import DamagedError
from forecache.declare.streams.merge_plan import build_merge_plan
from forecache.kit.windows.fold import FoldResult, cannot_sum, event_states, fold
from forecache.kit.windows.merger import merge_tiles
from forecache.kit.windows.plan import plan_from_json
from forecache.kit.windows.states import as_tiles, combine
from forecache.lake.windows.nights import merger_of, states_of

PLAN = build_merge_plan(VIEW)
CARDS = 4
seeds = st.integers(0, 2**32)


def night_of(payments: Sequence[Payment], as_of: date, view=VIEW) -> pa.Table | None:
    """The night that the batch makes of payments, by its own tiles and merge."""
    parts = []
    for day in sorted({p.day for p in payments}):
        rows = table_of([p for p in payments if p.day == day])
        tile = combine(as_tiles(rows, view.key, states_of(view), "at"), view.key, states_of(view))
        parts.append(tile.append_column("day", pa.array([day] * tile.num_rows, pa.int32()).cast(pa.date32())))
    batches = pa.concat_tables(parts).to_batches() if parts else []
    made = list(merger_of(view, [as_of])(batches))
    return pa.Table.from_batches(made) if made else None


def base_of(payments: Sequence[Payment], as_of: date, plan=PLAN, view=VIEW) -> tuple[np.ndarray, np.ndarray]:
    """The states of a night for the cards 0 to `CARDS` - 1, and which of them it has."""
    base = np.random.default_rng(1).integers(-(2**62), 2**62, (CARDS, len(plan.base_columns)))  # of none: anything
    known = np.zeros(CARDS, np.bool_)
    night = night_of(payments, as_of, view)
    for row in night.to_pylist() if night is not None else ():
        known[row["card"]] = True
        for place, column in enumerate(plan.base_columns):
            value = row[column.name]
            if column.is_float:
                base[row["card"], place] = np.array([np.nan if value is None else value]).view(np.int64)[0]
            else:
                base[row["card"], place] = np.iinfo(np.int64).min if value is None else value
    return base, known


def folded(
    payments: Sequence[Payment], entries: Sequence[bytes | None], base: np.ndarray, known: np.ndarray, as_of: date
) -> FoldResult:
    events = table_of(payments)
    codes, times = np.array([p.card for p in payments], int), np.array([p.at_us for p in payments], int)
    return fold(PLAN, codes, times, event_states(PLAN, events), entries, base, known, as_of)


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.dtype == wanted.dtype == np.float32 and np.array_equal(found, wanted, equal_nan=True)


def truth(payments: Sequence[Payment], card: int, at_us: int) -> np.ndarray:
    found = features_at(payments, card, at_us)
    return np.full(len(PLAN.features), np.nan, np.float32) if found is None else np.array(found, np.float32)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, lag=st.integers(1, 3), minutes=st.floats(0, 1439))
def test_merged_features_are_those_of_plain_python_at_any_lag(seed: int, lag: int, minutes: float) -> None:
    rng = random.Random(seed)
    today = START + timedelta(days=9)
    as_of, at = today - timedelta(days=lag), us(today, minutes)
    payments = [p for p in random_payments(rng, START, 10, 60) if p.at_us <= at]
    base, known = base_of([p for p in payments if p.day <= (as_of - EPOCH).days], as_of)
    # The stream has run for some days: what the night has, too, is not counted twice.
    streamed = [p for p in payments if p.day > (today - EPOCH).days - rng.choice([lag, lag + 2])]
    streamed += [p for p in payments if at - p.at_us < 70 * MINUTE_US and p not in streamed]
    after = folded(sorted(streamed, key=lambda p: p.at_us), [None] * CARDS, base, known, as_of).entries
    features, found = merge_tiles(PLAN, base, known, after, as_of, at)
    together = merge_tiles(PLAN, base, known, after, as_of, np.full(CARDS, at))  # and not one by one
    assert same(together[0], features)
    assert together[1].tolist() == found.tolist()
    for card in range(CARDS):
        assert same(features[card], truth(payments, card, at)), (card, features[card], truth(payments, card, at))
        assert found[card] == (features_at(payments, card, at) is not None)
        one = merge_tiles(PLAN, base[card : card + 1], known[card : card + 1], after[card : card + 1], as_of, at)
        assert same(one[0][0], features[card])


@settings(max_examples=10, deadline=None)
@given(seed=seeds, lag=st.integers(1, 3))
def test_merged_features_are_those_of_a_night_that_ends_at_the_moment(seed: int, lag: int) -> None:
    rng = random.Random(seed)
    today = START + timedelta(days=9)
    as_of, at = today - timedelta(days=lag), us(today, rng.uniform(0, 1440)) - 1
    payments = [p for p in random_payments(rng, START, 10, 60) if p.at_us <= at]
    base, known = base_of([p for p in payments if p.day <= (as_of - EPOCH).days], as_of)
    entries = folded(payments, [None] * CARDS, base, known, as_of).entries
    features, found = merge_tiles(PLAN, base, known, entries, as_of, at)
    night = night_of(payments, today)
    rows = {row["card"]: row for row in night.to_pylist()} if night is not None else {}
    assert found.tolist() == [card in rows for card in range(CARDS)]
    for card, row in rows.items():
        for place, feature in enumerate(PLAN.features):
            if not feature.minutes:  # a night's end at midnight
                value = np.float32(np.nan if row[feature.name] is None else row[feature.name])
                assert np.array_equal(features[card, place], value, equal_nan=True), feature


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_a_night_has_what_its_last_moment_has(seed: int) -> None:
    payments = random_payments(random.Random(seed), START, 8, 50)
    today = START + timedelta(days=7)
    night = night_of(payments, today)
    for row in night.to_pylist() if night is not None else ():
        wanted = truth(payments, row["card"], us(today + timedelta(days=1)) - 1)
        made = [np.nan if row[f.name] is None else row[f.name] for f in PLAN.features]
        assert same(np.array(made, np.float32), wanted)


@settings(max_examples=12, deadline=None)
@given(seed=seeds, ordered=st.booleans())
def test_events_see_those_before_them_in_whatever_batches_they_come(seed: int, ordered: bool) -> None:
    rng = random.Random(seed)
    as_of = START + timedelta(days=4)
    before = random_payments(rng, START, 5, 30)
    events = random_payments(
        rng, as_of + timedelta(days=1 if ordered else -1), 3 if ordered else 6, 40, ordered=ordered
    )
    base, known = base_of(before, as_of)
    whole = folded(events, [None] * CARDS, base, known, as_of)
    entries: list[bytes | None] = [None] * CARDS
    features, found, first = [], [], 0
    while first < len(events):
        batch = events[first : first + rng.randint(1, 9)]
        part = folded(batch, entries, base, known, as_of)
        entries, first = list(part.entries), first + len(batch)
        features.append(part.features)
        found.append(part.found)
    assert same(np.concatenate(features), whole.features)
    assert np.concatenate(found).tolist() == whole.found.tolist()
    assert entries == whole.entries
    if ordered:
        streamed = [p for p in before if p.day <= (as_of - EPOCH).days]
        for place, event in enumerate(events):
            # Windows in minutes come from the stream alone, which began after the night.
            wanted = truth([*streamed, *events[:place]], event.card, event.at_us)
            days = [i for i, f in enumerate(PLAN.features) if not f.minutes]
            assert same(whole.features[place][days], wanted[days])


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_tiles_are_the_same_in_any_order_of_events_of_the_last_hour(seed: int) -> None:
    rng = random.Random(seed)
    as_of, noon = START + timedelta(days=4), us(START + timedelta(days=5), 720)
    events = [
        Payment(p.card, noon + p.at_us % (50 * MINUTE_US), p.amount, p.pieces, p.fraud)
        for p in random_payments(rng, START, 3, 40)
    ]
    base, known = base_of([], as_of)
    first = folded(events, [None] * CARDS, base, known, as_of)
    rng.shuffle(events)
    assert folded(events, [None] * CARDS, base, known, as_of).entries == first.entries


def test_an_event_sees_itself_where_features_after_it_are_wanted() -> None:
    as_of = START + timedelta(days=4)
    events = random_payments(random.Random(3), as_of + timedelta(days=1), 2, 40)
    base, known = base_of([], as_of)
    codes, times = np.array([p.card for p in events]), np.array([p.at_us for p in events])
    states = event_states(PLAN, table_of(events))
    after = fold(PLAN, codes, times, states, [None] * CARDS, base, known, as_of, see="after")
    assert after.found.all()
    for place, event in enumerate(events):
        assert same(after.features[place], truth(events[: place + 1], event.card, event.at_us))


def test_rows_that_only_see_leave_no_trace() -> None:
    as_of = START + timedelta(days=4)
    events = random_payments(random.Random(5), as_of + timedelta(days=1), 1, 40)
    base, known = base_of([], as_of)
    codes, times = np.array([p.card for p in events]), np.array([p.at_us for p in events])
    counts = np.arange(len(events)) % 3 > 0
    states = event_states(PLAN, table_of(events))
    seen = fold(PLAN, codes, times, states, [None] * CARDS, base, known, as_of, counts=counts)
    counted = [p for p, its in zip(events, counts, strict=True) if its]
    assert seen.entries == folded(counted, [None] * CARDS, base, known, as_of).entries
    for place, event in enumerate(events):
        before = [p for p, its in zip(events[:place], counts[:place], strict=True) if its]
        assert same(seen.features[place], truth(before, event.card, event.at_us))


@settings(max_examples=15, deadline=None)
@given(seed=seeds, chosen=st.sets(st.sampled_from(range(len(WINDOWS))), min_size=1, max_size=3))
def test_views_of_any_few_windows_are_merged_right(seed: int, chosen: set[int]) -> None:
    view = replace(VIEW, windows=tuple(WINDOWS[place] for place in sorted(chosen)))
    plan, today = build_merge_plan(view), START + timedelta(days=9)
    as_of, at = today - timedelta(days=2), us(today, 800)
    payments = [p for p in random_payments(random.Random(seed), START, 10, 60) if p.at_us <= at]
    base, known = base_of([p for p in payments if p.day <= (as_of - EPOCH).days], as_of, plan, view)
    events = [p for p in payments if p.day >= (as_of - EPOCH).days]
    codes, times = np.array([p.card for p in events], int), np.array([p.at_us for p in events], int)
    states = event_states(plan, table_of(events))
    entries = fold(plan, codes, times, states, [None] * CARDS, base, known, as_of, see="nothing").entries
    for moments in (at, np.full(CARDS, at)):
        features, found = merge_tiles(plan, base, known, entries, as_of, moments)
        for card in range(CARDS):
            wanted = features_at(payments, card, at, view)
            assert found[card] == (wanted is not None)
            row = [np.nan] * len(plan.features) if wanted is None else wanted
            assert same(features[card], np.array(row, np.float32))


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_a_publish_in_the_midst_of_a_stream_changes_no_feature(seed: int) -> None:
    rng = random.Random(seed)
    first, second = START + timedelta(days=4), START + timedelta(days=5)
    before = random_payments(rng, START, 5, 40)
    events = random_payments(rng, first + timedelta(days=1), 2, 60)
    day = (second - EPOCH).days
    published = next(place for place, p in enumerate(events) if p.day > day) + rng.randrange(5)
    old, new = base_of(before, first), base_of([*before, *(p for p in events if p.day <= day)], second)
    whole = folded(events, [None] * CARDS, *old, first)
    start = folded(events[:published], [None] * CARDS, *old, first)
    rest = folded(events[published:], start.entries, *new, second)
    assert same(np.concatenate([start.features, rest.features]), whole.features)
    at = us(second + timedelta(days=1), 1439.9)
    assert same(
        merge_tiles(PLAN, *new, rest.entries, second, at)[0], merge_tiles(PLAN, *old, whole.entries, first, at)[0]
    )
    back = folded(events[published:], start.entries, *old, first)  # rolled back
    assert same(back.features, rest.features)


def test_a_view_counts_as_unknown_when_its_night_is_too_old() -> None:
    as_of = START + timedelta(days=4)
    payments = random_payments(random.Random(7), START, 5, 60)
    base, known = base_of(payments, as_of)
    assert known.any()
    for days, reached in ((3, True), (4, False)):
        features, found = merge_tiles(PLAN, base, known, None, as_of, us(as_of + timedelta(days=days), 5))
        assert found.any() == reached
        assert np.isnan(features).all() == (not reached)


def test_a_moment_of_the_night_itself_counts_as_the_first_one_after_it() -> None:
    as_of = START + timedelta(days=4)
    payments = random_payments(random.Random(7), START, 5, 60)
    base, known = base_of(payments, as_of)
    late = merge_tiles(PLAN, base, known, None, as_of, us(as_of, 700))
    first = merge_tiles(PLAN, base, known, None, as_of, us(as_of + timedelta(days=1)))
    assert same(late[0], first[0])


def test_many_moments_are_those_of_each() -> None:
    rng = random.Random(11)
    as_of = START + timedelta(days=4)
    base, known = base_of(random_payments(rng, START, 5, 60), as_of)
    events = random_payments(rng, as_of + timedelta(days=1), 3, 60)
    entries = folded(events, [None] * CARDS, base, known, as_of).entries
    moments = np.array([us(as_of + timedelta(days=1 + card % 3), 300 * card) for card in range(CARDS)])
    together = merge_tiles(PLAN, base, known, entries, as_of, moments)
    for card, at in enumerate(moments.tolist()):
        own = slice(card, card + 1)
        one = merge_tiles(PLAN, base[own], known[own], entries[own], as_of, at)
        assert same(together[0][own], one[0])
        assert together[1][own] == one[1]


def test_an_entry_of_another_plan_is_refused() -> None:
    as_of = START + timedelta(days=4)
    base, known = base_of([], as_of)
    events = random_payments(random.Random(3), as_of + timedelta(days=1), 1, 9)
    entries = folded(events, [None] * CARDS, base, known, as_of).entries
    changed = bytearray(entries[0])
    changed[5] ^= 1
    with pytest.raises(DamagedError, match="'card_live' holds tiles of another declaration"):
        merge_tiles(PLAN, base, known, [bytes(changed), *entries[1:]], as_of, us(as_of + timedelta(days=1), 60))


def test_a_plan_survives_its_way_through_json() -> None:
    found = plan_from_json(PLAN.to_json())
    assert found == PLAN
    assert (found.id, found.base_columns) == (PLAN.id, PLAN.base_columns)


def test_events_that_no_exact_sum_holds_are_named() -> None:
    payments = [
        Payment(0, us(START, number), amount, 1, 0) for number, amount in enumerate([1.0, 2.0**44, None, -(2.0**50)])
    ]
    assert cannot_sum(PLAN, table_of(payments)).tolist() == [False, True, False, True]


def test_old_tiles_of_minutes_are_dropped() -> None:
    as_of = START + timedelta(days=4)
    base, known = base_of([], as_of)
    day = as_of + timedelta(days=1)
    events = [Payment(0, us(day, minute), 1.0, 1, 0) for minute in range(0, 1440, 5)]
    entries = folded(events, [None], base[:1], known[:1], as_of).entries
    short = folded(events[-12:], [None], base[:1], known[:1], as_of).entries
    assert len(entries[0]) == len(short[0])
