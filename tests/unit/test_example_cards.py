"""The card payments: the simulator's rules, the protocol by hand, the transform, and what is sent to the topic."""

import json
import random
from collections import defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecache.base.settings import PROJECT_ROOT, load_settings
from forecache.declare.loading import read_project
from forecache.declare.realtime.request_rows import Rows

DAYS = 45


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT_ROOT / "examples" / "cards"))


@pytest.fixture(scope="module")
def world() -> Any:
    """A simulator of a fifth of the customers, and 45 days of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT_ROOT / "examples" / "cards"))
        from cards.simulator import START, Simulator

        simulator = Simulator(1000)
        return simulator, list(simulator.days(START, START + timedelta(days=DAYS - 1)))


def test_the_declarations_load() -> None:
    found = read_project(load_settings(project="cards"))
    assert found.broken == {}
    assert list(found.realtime) == ["card_fraud"]
    assert list(found.streams) == ["cards"]


def test_labels_are_in_no_feature_before_they_are_known() -> None:
    from cards.views import CUSTOMER, LABEL_DAYS, TERMINAL

    of_labels = [window for window in (*CUSTOMER.windows, *TERMINAL.windows) if window.column == "fraud"]
    # As of today: the day `LABEL_DAYS` ago is not over for as long as the labels take.
    assert {window.delay_days for window in of_labels} == {LABEL_DAYS + 1}
    assert not [w for v in (CUSTOMER, TERMINAL) for w in v.windows for each in w.where if each.column == "fraud"]


def test_a_day_is_the_same_whichever_days_are_made(world: Any) -> None:
    from cards.simulator import Simulator

    _, days = world
    again = Simulator(1000).day(days[40].day)
    for name in ("second", "customer", "terminal", "amount", "scenario", "ids"):
        assert np.array_equal(getattr(again, name), getattr(days[40], name)), name
    other = Simulator(1000, seed=1).day(days[40].day)
    assert len(other.second) != len(again.second) or not np.array_equal(other.second, again.second)


def test_payments_are_ordered_have_numbers_of_their_own_and_are_about_two_a_day(world: Any) -> None:
    _, days = world
    ids = np.concatenate([each.ids for each in days])
    assert len(np.unique(ids)) == len(ids)
    assert all((np.diff(each.second) >= 0).all() and each.second.max() < 86_400 for each in days)
    # 2 a day on average, of which the normal distribution leaves 3.1% to other days.
    assert len(ids) / DAYS / 1000 == pytest.approx(2 * 0.969, rel=0.06)
    seconds = np.concatenate([each.second for each in days])
    assert (seconds.mean(), seconds.std()) == (pytest.approx(43_200, rel=0.01), pytest.approx(18_650, rel=0.03))


def test_customers_pay_around_their_mean_at_terminals_within_their_reach(world: Any) -> None:
    _, days = world
    customer, amount, terminal, plain = (
        np.concatenate([getattr(each, name) for each in days])
        for name in ("customer", "amount", "terminal", "scenario")
    )
    used = defaultdict(set)
    for c, t in zip(customer.tolist(), terminal.tolist(), strict=True):
        used[c].add(t)
    # 2,000 terminals on a square of 100 by 100: 15.7 within 5 of a customer inside it.
    assert 8 < np.mean([len(each) for each in used.values()]) < 16
    usual = [amount[(customer == c) & (plain < 3)] for c in range(0, 1000, 50)]
    for amounts in (each for each in usual if len(each) > 60):
        # A normal distribution with half its mean as deviation, whose negative part (2.3%) becomes uniform.
        assert amounts.std() / amounts.mean() == pytest.approx(0.48, abs=0.09)
        assert 4 < amounts.mean() < 110


def test_frauds_are_large_amounts_compromised_terminals_and_stolen_cards(world: Any) -> None:
    simulator, days = world
    for number, each in enumerate(days):
        assert ((each.scenario > 0) == each.fraud).all()
        # Whatever is above the limit is a fraud; whatever is a fraud of the first kind is above the limit.
        assert each.fraud[each.amount > 220].all()
        assert (each.amount[each.scenario == 1] > 220).all()
        terminals = simulator._compromised(number, 2, simulator.terminals, 2, 28)
        cards = simulator._compromised(number, 3, simulator.customers, 3, 14)
        at_terminal = np.isin(each.terminal, terminals)
        assert (each.scenario[at_terminal] >= 2).all()
        assert at_terminal[each.scenario == 2].all()
        assert np.isin(each.customer[each.scenario == 3], cards).all()
    # A fifth of 2 terminals a day for 28 days, and of 3 cards for 14 days.
    assert len(terminals) == pytest.approx(2 / 5 * 28, abs=1)
    assert len(cards) == pytest.approx(3 / 5 * 14, abs=1)
    of_cards = [
        each.scenario[np.isin(each.customer, simulator._compromised(number, 3, 1000, 3, 14))]
        for number, each in enumerate(days)
    ]
    stolen = np.concatenate(of_cards)
    assert (stolen == 3).mean() == pytest.approx(1 / 3, abs=0.07)


def test_a_terminal_is_compromised_for_28_days_and_a_card_for_14(world: Any) -> None:
    simulator, _ = world
    for scenario, of, a_day, length in ((2, 2000, 2, 28), (3, 1000, 3, 14)):
        days = defaultdict(list)
        for number in range(120):
            for each in simulator._compromised(number, scenario, of, a_day, length):
                days[int(each)].append(number)
        whole = [found for found in days.values() if found[0] > 0 and found[-1] < 119]
        assert len(whole) > 20
        # One that was drawn twice is compromised for longer.
        assert np.mean([found == list(range(found[0], found[0] + length)) for found in whole]) > 0.8


def test_a_day_before_the_first_is_refused() -> None:
    from cards.simulator import Simulator

    with pytest.raises(ValueError, match="2018-03-31 is before it"):
        Simulator(10).day(date(2018, 3, 31))


def test_known_customers_are_not_judged_and_one_day_more_is_known_each_day() -> None:
    from cards.protocol import Protocol

    rng, protocol = random.Random(5), Protocol(date(2018, 7, 25))
    assert (protocol.judged_from, protocol.judged_to) == (date(2018, 8, 8), date(2018, 8, 14))
    rows = [
        (date(2018, 7, 25) + timedelta(days=rng.randrange(21)), rng.randrange(60), rng.random() < 0.05)
        for _ in range(3000)
    ]
    wanted = []
    for day, customer, _ in rows:
        number = (day - date(2018, 8, 8)).days
        last_known = date(2018, 7, 31) + timedelta(days=number)
        known = {c for d, c, bad in rows if bad and d <= last_known}
        wanted.append(0 <= number < 7 and customer not in known)
    day, customer, fraud = (np.array(column) for column in zip(*rows, strict=True))
    found = protocol.judged(day.astype("datetime64[D]"), customer, fraud)
    assert found.tolist() == wanted
    assert 100 < sum(wanted) < 1000


def test_card_precision_counts_a_card_once_a_day_and_blocks_it_once_it_was_found() -> None:
    from cards.protocol import card_precision

    rows = [  # day, customer, fraud, score
        (1, 1, False, 0.9), (1, 1, True, 0.1), (1, 2, False, 0.8), (1, 3, True, 0.7),
        (2, 1, True, 0.99), (2, 3, True, 0.6), (2, 4, False, 0.5), (2, 5, True, 0.1),
    ]  # fmt: skip
    day, customer, fraud, score = (np.array(column) for column in zip(*rows, strict=True))
    days = np.datetime64("2018-08-07") + day.astype("timedelta64[D]")
    # Day 1: customers 1 (a fraud on it, though another payment has the score) and 2. Day 2, without 1: 3 and 4.
    assert card_precision(days, customer, fraud, score, top=2) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert card_precision(days, customer, fraud, score, top=3) == pytest.approx((2 / 3 + 1 / 3) / 2)


def _features(request: dict[str, Any], views: dict[str, dict[str, float]]) -> dict[str, float]:
    from cards.pipelines.card_fraud import card_fraud
    from cards.scoring import FEATURES, payment_features

    places, matrices, found = {}, {}, {}
    for lookup in card_fraud.lookups:
        given = views.get(lookup.called)
        places[lookup.called] = {name: place for place, name in enumerate(lookup.columns)}
        matrices[lookup.called] = np.array([[(given or {}).get(name, np.nan) for name in lookup.columns]], np.float32)
        found[lookup.called] = np.array([given is not None])
    columns = {
        "customer_id": np.array([1]),
        "terminal_id": np.array([2]),
        "amount": np.array([request["amount"]]),
        "paid_at": np.array([request["paid_at"]], "datetime64[us]"),
    }
    matrix = payment_features(Rows(1, columns, matrices, found, places))
    assert (matrix.dtype, matrix.shape) == (np.float32, (1, len(FEATURES)))
    return dict(zip(FEATURES, matrix[0].tolist(), strict=True))


def test_a_new_customer_at_a_new_terminal_has_counts_of_zero_and_the_rest_unknown() -> None:
    found = _features({"amount": 90.0, "paid_at": "2018-08-11T06:59:00"}, {})
    assert (found["amount"], found["weekend"], found["night"]) == (90, 1, 1)
    counts = {name: value for name, value in found.items() if "_payments_" in name}
    assert set(counts.values()) == {0}
    assert all(np.isnan(value) for name, value in found.items() if "mean" in name or "share" in name)
    late = _features({"amount": 90.0, "paid_at": "2018-08-10T07:00:00"}, {})
    assert (late["weekend"], late["night"]) == (0, 0)


def test_messages_are_the_columns_of_the_topic_in_the_order_of_time(world: Any) -> None:
    from cards.demo.replay import messages
    from cards.sources import AS_THEY_HAPPEN

    day = world[1][3]
    sent = list(messages(day))
    events = [json.loads(value) for _, value in sent]
    assert [event["transaction_id"] for event in events] == day.ids.tolist()
    assert [key.decode() for key, _ in sent] == [str(event["customer_id"]) for event in events]
    assert set(events[0]) == {column.name for column in AS_THEY_HAPPEN.columns}
    assert [event["paid_at"] for event in events] == sorted(event["paid_at"] for event in events)
    assert events[0]["paid_at"][:11] + events[0]["paid_at"][-1] == "2018-04-04TZ"


def test_the_page_of_a_day_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    from cards.demo.page import plotted, write_day_page
    from cards.demo.watch import Seen

    sent = np.linspace(0.5, 80, 400)
    seen = Seen([(float(at), 0.02 + 0.001 * place) for place, at in enumerate(sent[::4])], [(1.0, 3), (2.0, 0)])
    answers = [{"name": "source", "night": "precomputed", "live": "live"}]
    highest = [{"transaction_id": 7, "at": "12:00:01", "amount": 230.5, "score": 0.97, "fraud": True}]
    write_day_page(tmp_path / "day.html", plotted(seen, sent, speed=1000), {
        "day": date(2018, 8, 8), "night": date(2018, 8, 7), "seconds": 81.0, "speed": 1000, "events": 400,
        "scored": 400,
        "environment": "", "release": 1, "table": "stream_cards", "delays": 100, "median_s": 0.07, "p99_s": 0.118,
        "most_lag": 3,
        "answers": answers, "customer": 5, "frauds": 9, "average_precision": 0.7, "highest": highest,
    })  # fmt: skip
    page = (tmp_path / "day.html").read_text()
    assert page.count("<svg") == 2
    assert [word for word in ("precomputed", "fraud", "70 ms") if word not in page] == []
    for word in ("<script", "<link", "<img", "url(http", "@import"):
        assert word not in page
