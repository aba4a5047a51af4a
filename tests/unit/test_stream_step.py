"""A batch of messages to rows: the same rows however the messages are split, whatever is among them."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from stream_sample import CUSTOMER, PACE, PAYMENTS, POISON, EmptyNight, a_stream, messages, payment, release
from stream_truth import answered, plain

from forecache.base.settings import Settings, load_settings
from forecache.declare import Table, Topic
from forecache.stream.step import StreamStep
from forecache.stream.table.schema import PLACE, POSITION


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = load_settings(home=tmp_path_factory.mktemp("stream") / "home")
    release(made)
    return made


def a_step(settings: Settings, **declared: Any) -> StreamStep:
    step = StreamStep(settings, a_stream(**declared), bases=lambda view: EmptyNight())
    found = step.answerer.find_newer()
    if found is not None:
        step.answerer.switch_to(found)
    return step


def some_messages(seed: int = 1, count: int = 60) -> list[bytes | None]:
    generator = random.Random(seed)
    values: list[bytes | None] = [payment(number) for number in range(count)]
    for number in generator.sample(range(count), 8):
        values.insert(generator.randrange(len(values)), payment(number))
    for each in POISON:
        values.insert(generator.randrange(len(values)), each)
    values.insert(generator.randrange(len(values)), payment(700, amount=666))
    return values


def test_rows_do_not_depend_on_how_messages_are_split(settings: Settings) -> None:
    for seed in range(5):
        values = some_messages(seed)
        rows, bad = answered(settings, values)
        assert rows
        assert len(bad) == len(POISON)
        generator, step, at = random.Random(seed), a_step(settings), 0
        in_parts: list[Any] = []
        bad_in_parts: list[Any] = []
        while at < len(values):
            size = generator.choice((1, 2, 7, 30))
            part = step.run(messages(values[at : at + size], first=at))
            in_parts += part.rows.to_pylist()
            bad_in_parts += part.bad.to_pylist()
            at += size
        assert [plain(row) for row in in_parts] == rows
        assert [plain(row) for row in bad_in_parts] == bad


def test_an_event_sees_the_events_before_it_and_not_itself(settings: Settings) -> None:
    step = a_step(settings)
    given = [payment(5 * number, amount=number + 1.0) for number in range(4)]  # of one customer
    step.run(messages(given[:3]))
    view = step.views["customer"]
    seen = view.add_events(step.judge(messages(given[3:])).events, EmptyNight())
    assert seen.features.tolist() == [[6.0, 3.0, 6.0]]
    assert seen.base == "customer=2026-03-01@7"


def test_an_event_that_breaks_the_transform_has_a_row_without_an_answer(settings: Settings) -> None:
    found = a_step(settings).run(messages([payment(1), payment(2, amount=666), payment(3)]))
    assert [row["answered_by"] for row in found.rows.to_pylist()] == ["model", None, "model"]
    assert found.rows["score"].null_count == 1
    assert found.failed == 1
    assert "number of the beast" in found.failure


def test_repeats_are_dropped_and_counted(settings: Settings) -> None:
    step = a_step(settings)
    first = step.run(messages([payment(1), payment(1, amount=5), payment(2)]))
    second = step.run(messages([payment(2), payment(3)]))
    assert [row["payment_id"] for row in first.rows.to_pylist()] == [1, 2]
    assert [row["payment_id"] for row in second.rows.to_pylist()] == [3]
    assert (first.repeats, second.repeats) == (1, 1)


def test_events_of_a_day_that_a_night_has_been_made_from_are_late(settings: Settings) -> None:
    found = a_step(settings).run(messages([payment(1), payment(2, at="2026-03-01T23:59:59Z")]))
    assert found.rows["late"].to_pylist() == [False, True]
    assert found.late == 1


def test_a_step_that_has_replayed_the_rows_goes_on_as_if_it_had_never_stopped(settings: Settings) -> None:
    values = some_messages(3)
    whole = a_step(settings)
    rows = whole.run(messages(values)).rows
    again = a_step(settings)
    assert again.replay([rows.slice(0, 20), rows.slice(20)]) == rows.num_rows
    rows = rows.set_column(rows.schema.get_field_index(POSITION), POSITION, pa.repeat(1, rows.num_rows))
    rows = rows.set_column(rows.schema.get_field_index(PLACE), PLACE, pa.array(range(rows.num_rows), pa.int32()))
    assert again.repeats.add_table_rows([rows.slice(20), rows.slice(0, 20)]) == rows.num_rows
    more: list[bytes | None] = [payment(number) for number in range(40, 90)]
    first, second = (step.run(messages(more, first=len(values))) for step in (whole, again))
    assert [plain(row) for row in first.rows.to_pylist()] == [plain(row) for row in second.rows.to_pylist()]
    assert first.live == second.live
    assert first.repeats == second.repeats > 0


def test_values_that_no_sum_holds_are_bad(settings: Settings) -> None:
    columns = tuple(replace(each, maximum=None) if each.name == "amount" else each for each in PAYMENTS.columns)
    source = replace(PAYMENTS, columns=columns)
    view = replace(CUSTOMER, sources=(source,))
    topic = Topic("payments", topic="payments", source=source)
    judge = a_step(settings, topic=topic, views=(view,), answers=None, to=(Table(),)).judge
    found = judge(messages([payment(1, amount=2.0**44), payment(2, amount=2.0**43), payment(3, customer_id=None)]))
    assert found.bad["reason"].to_pylist() == [
        "a value is too large for the sums of the view customer: they take less than 2**44",
        "customer_id is missing",
    ]
    assert found.events["payment_id"].to_pylist() == [2]


def test_an_event_refreshes_the_row_of_its_key_from_the_features_after_it(settings: Settings) -> None:
    values = [payment(5 * number, amount=8.0 * number) for number in range(6)]  # of one customer
    for split in (6, 1, 4):
        step, rows = a_step(settings, answers=PACE), []
        for at in range(0, len(values), split):
            rows += step.run(messages(values[at : at + split], first=at)).rows.to_pylist()
        assert [row["pace"] for row in rows] == [1.0, 3.0, 6.0, 10.0, 15.0, 21.0]
        assert [row["band"] for row in rows] == ["slow", "slow", "quick", "quick", "quick", "quick"]
        assert {row["model_version"] for row in rows} == {1}
        assert {row["release"] for row in rows} == {None}


def bits_of(rows: pa.Table) -> list[bytes | None]:
    """The features of each row, bit by bit."""
    return [None if each is None else np.float32(each).tobytes() for each in rows["features"].to_pylist()]


def test_kept_features_are_those_that_each_event_was_answered_with(settings: Settings) -> None:
    values = [payment(5 * number, amount=number + 1.1) for number in range(4)]  # of one customer
    values.insert(2, payment(601, amount=666))
    rows = a_step(settings, keep_features=True).run(messages(values)).rows
    amounts, spent = [1.1, 2.1, 3.1, 4.1], [np.nan, 1.1, 1.1 + 2.1, 1.1 + 2.1 + 3.1]
    wanted = [np.float32([amounts[n], spent[n], n if n else np.nan, n > 0]).tobytes() for n in range(4)]
    assert bits_of(rows) == [*wanted[:2], None, *wanted[2:]], "the transform failed on the third"
    plainly = a_step(settings).run(messages(values)).rows
    assert "features" not in plainly.column_names
    assert [plain(row) for row in rows.drop_columns(["features"]).to_pylist()] == [
        plain(row) for row in plainly.to_pylist()
    ]


def test_kept_features_do_not_depend_on_how_messages_are_split(settings: Settings) -> None:
    values = some_messages(4)
    for answers in ({}, {"answers": PACE}):
        whole = bits_of(a_step(settings, keep_features=True, **answers).run(messages(values)).rows)
        step, found = a_step(settings, keep_features=True, **answers), []
        for at in range(0, len(values), 7):
            found += bits_of(step.run(messages(values[at : at + 7], first=at)).rows)
        assert found == whole
        assert len(set(found)) > 50


def test_a_stream_may_keep_its_views_alone(settings: Settings) -> None:
    found = a_step(settings, answers=None, to=(Table(),)).run(messages([payment(1), payment(2)]))
    assert found.rows["model_version"].to_pylist() == [None, None]
    assert [key for key, _, _ in found.live["customer"]] == [b"1", b"2"]


def test_a_view_that_is_not_live_is_looked_up_as_it_is_served(settings: Settings, tmp_path: Path) -> None:
    from forecache.plugins.stream_answers.release_answerer import _PublishedView
    from forecache.realtime.release.format import LookupContract

    lookup = LookupContract("shop", "nowhere", ("shop",), ("visits",), "c")
    store = _PublishedView(settings, lookup)
    events = a_step(settings).judge(messages([payment(1)])).events
    matrix, found = store.matrix(lookup, events)
    assert np.isnan(matrix).all()
    assert not found.any()
