"""A stream on a published night: what its events see is what a night would have had just before them, to the bit."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from live_view_sample import CHECK, PAYMENTS, START, VIEW, Payment, features_at, land, random_payments
from release_support import make_release
from stream_code import seen_views
from stream_sample import messages

from forecache.base.settings import Settings, load_settings
from forecache.declare import Stream, Topic
from forecache.kit.delta.tables import open_table
from forecache.lake.features import build_view
from forecache.lake.ingest.ingest import ingest
from forecache.plugins.backfill.lake_states import LakeStates
from forecache.plugins.historical_features.training_set import build_examples
from forecache.realtime.release.format import LookupContract
from forecache.serve.store import open_store, publish
from forecache.stream.step import StreamStep, switch_to_newest
from forecache.stream.table.schema import FEATURE_VERSION

pytestmark = pytest.mark.slow
CARDS, DAYS = 4, 8
NIGHT = START + timedelta(days=5)
STREAM = Stream("payments", topic=Topic("payments", "payments", PAYMENTS, without=("fraud",)), views=(VIEW,))


@pytest.fixture(scope="module")
def payments() -> list[Payment]:
    return sorted(random_payments(random.Random(3), START, DAYS, 260, cards=CARDS), key=lambda each: each.at_us)


@pytest.fixture(scope="module")
def settings(spark: Any, payments: list[Payment], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home that has all payments, and two nights of the view."""
    settings = load_settings(home=tmp_path_factory.mktemp("nights") / "home", spark_master="local[2]")
    land(settings, payments, [START + timedelta(days=number) for number in range(DAYS)])
    ingest(settings, PAYMENTS)
    build_view(settings, VIEW, [NIGHT, NIGHT + timedelta(days=1)])
    return settings


def test_events_see_what_a_night_would_have_had_just_before_them(settings: Settings, payments: list[Payment]) -> None:
    nights = [NIGHT, NIGHT + timedelta(days=1)]
    publish(settings, VIEW, night=nights[0])
    step = StreamStep(settings, STREAM)
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


def test_kept_features_are_those_of_the_training_set_of_a_later_night(
    spark: Any, settings: Settings, payments: list[Payment]
) -> None:
    model = replace(CHECK, request=(CHECK.request[0], replace(CHECK.request[1], default=0.0)))
    last = NIGHT + timedelta(days=2)
    build_examples(settings, model, last)
    contract = LookupContract(VIEW.name, VIEW.name, VIEW.key, VIEW.served_columns, VIEW.packed.contract)
    make_release(
        settings, name="check", features=model.feature_names, transform=seen_views.as_seen, request=model.request,
        candidates=None, lookups=(contract,), warmup=[b'{"card":1,"amount":1.0}'],
    )  # fmt: skip
    stream = replace(STREAM, answers=model, keep_features=True)
    nights = LakeStates(settings, stream)
    step = StreamStep(settings, stream, bases=lambda view: nights.find_newest_before(view, last))
    switch_to_newest(step.answerer)
    # Windows of minutes reach into the day before.
    some = [each for each in payments if day_of(each) >= last - timedelta(days=1)]
    rows = step.run(messages([message(each) for each in some])).rows.to_pylist()
    kept = {"p" + row["payment"].partition("-")[2]: row["features"] for row in rows if row["event_day"] == last}
    assert {row[FEATURE_VERSION] for row in rows} == {f"{VIEW.name}={last - timedelta(days=1)}@0"}
    table = open_table(settings, "training_set_check").to_pyarrow_table()
    trained = {row["request_id"]: row for row in table.to_pylist() if row["as_of"] == last}
    assert kept.keys() == trained.keys()
    assert len(kept) > 20
    for payment, features in kept.items():
        wanted = [trained[payment][name] for name in model.feature_names]
        made = np.array([np.nan if value is None else value for value in wanted], np.float32)
        assert np.array(features, np.float32).tobytes() == made.tobytes(), payment


def streamed(
    settings: Settings, step: StreamStep, payments: Sequence[Payment], some: Sequence[Payment], night: date
) -> list[np.ndarray]:
    """What events see, compared with the truth."""
    events = step.judge(messages([message(each) for each in some])).events
    assert events.num_rows == len(some)
    view = step.views[VIEW.name]
    before = dict(view.entries)
    found = view.add_events(events, step.bases(VIEW))
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
    assert set(rows[FEATURE_VERSION].to_pylist()) == {found.base}
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
