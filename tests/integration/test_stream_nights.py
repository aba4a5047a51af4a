"""A stream on a published night: what its events see is what a night would have had just before them, to the bit."""

import json
import random
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from live_view_sample import PAYMENTS, START, VIEW, Payment, features_at, land, random_payments
from stream_sample import messages

from forecache.lake.feature_tables.features import build_view
from forecache.lake.ingest.ingest import ingest
from forecache.pipeline import Stream, Topic
from forecache.settings import Settings, load_settings
from forecache.store import open_store, publish
from forecache.stream.record import BASE
from forecache.stream.step.step import Step

pytestmark = pytest.mark.slow
CARDS, DAYS = 4, 8
NIGHT = START + timedelta(days=5)
STREAM = Stream("payments", topic=Topic("payments", "payments", PAYMENTS, without=("fraud",)), views=(VIEW,))


def test_events_see_what_a_night_would_have_had_just_before_them(spark: Any, tmp_path: Any) -> None:
    settings = load_settings(home=tmp_path / "home", spark_master="local[2]")
    payments = sorted(random_payments(random.Random(3), START, DAYS, 260, cards=CARDS), key=lambda each: each.at_us)
    land(settings, payments, [START + timedelta(days=number) for number in range(DAYS)])
    ingest(spark, settings, PAYMENTS)
    nights = [NIGHT, NIGHT + timedelta(days=1)]
    build_view(spark, settings, VIEW, nights)
    publish(settings, VIEW, night=nights[0])
    step = Step(settings, STREAM)
    # Windows of minutes reach into the night's own day, which the stream has seen, too.
    late = step.answer(step.judge(messages([message(each) for each in payments if day_of(each) == nights[0]])).events)
    assert late.late == late.rows.num_rows > 0
    first = [each for each in payments if day_of(each) > nights[0]]
    middle = len(first) // 2
    seen = streamed(settings, step, payments, first[:middle], nights[0])
    assert seen
    publish(settings, VIEW, night=nights[1])
    step.bases._found.clear()  # type: ignore[attr-defined]  # without the wait of half a second
    later = [each for each in first[middle:] if day_of(each) > nights[1]]
    assert later
    step.answer(step.judge(messages([message(each) for each in first[middle:] if each not in later])).events)
    streamed(settings, step, payments, later, nights[1])


def streamed(
    settings: Settings, step: Step, payments: Sequence[Payment], some: Sequence[Payment], night: date
) -> list[np.ndarray]:
    """What events see, compared with the truth."""
    events = step.judge(messages([message(each) for each in some])).events
    assert events.num_rows == len(some)
    view = step.views[VIEW.name]
    before = dict(view.entries)
    found = view.take_in(events, step.bases(VIEW))
    view.entries = before
    source = open_store(settings, VIEW.name).current()
    assert source is not None
    assert found.base == f"{VIEW.name}={night}@{source.source.delta_version}"
    for place, each in enumerate(some):
        wanted = features_at([p for p in payments if p.at_us < each.at_us], each.card, each.at_us)
        width = found.features.shape[1]
        truth = np.full(width, np.nan, np.float32) if wanted is None else np.array(wanted, np.float32)
        assert np.array_equal(found.features[place], truth, equal_nan=True), (place, each)
    rows = step.answer(events).rows
    assert rows.num_rows == len(some)
    assert set(rows[BASE].to_pylist()) == {found.base}
    return list(found.features)


def day_of(payment: Payment) -> date:
    return date(1970, 1, 1) + timedelta(days=payment.day)


def message(payment: Payment) -> bytes:
    at = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=payment.at_us)
    values = {
        "payment": f"{payment.card}-{payment.at_us}", "card": payment.card, "at": at.isoformat(),
        "amount": payment.amount, "pieces": payment.pieces,
    }  # fmt: skip
    return json.dumps(values).encode()
