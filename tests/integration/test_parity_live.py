"""Parity of answers that looked up a live view: equal to the bit at the position that the log has, or told why not."""

import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from live_answers import (
    CARDS,
    FEATURES,
    STREAM,
    LiveAnswering,
    Streaming,
    live_stream,
    night_of,
    payments,
    rows_in_table,
    write_night,
)
from live_view_sample import VIEW
from log_support import commit_all
from logged_answers import write_log

from forecache.base.settings import Settings
from forecache.kit.delta.tables import append_rows
from forecache.plugins.parity.replay import replay_day
from forecache.plugins.parity.replay_result import ParityReport
from forecache.realtime.log.record import schema
from forecache.realtime.log.spool_stream import SpoolStream, encode_frame
from forecache.serve.store import open_store
from forecache.serve.store.live.layer import read_layer, write_layer
from forecache.serve.store.store import retire_versions

NOW = datetime.now(timezone.utc)


@pytest.fixture
def streaming(settings: Settings) -> Iterator[Streaming]:
    with live_stream(settings, NOW) as found:
        yield found


@pytest.fixture
def answering(streaming: Streaming) -> Iterator[LiveAnswering]:
    found = LiveAnswering(streaming.settings)
    yield found
    found.close()


def replayed(settings: Settings, **more: Any) -> ParityReport:
    return replay_day(settings, "ranking", processes=0, **more)


def answer_along(streaming: Streaming, answering: LiveAnswering) -> int:
    """Answers before the first event and between commits, at one position each; returns how many."""
    events = payments(NOW)
    answering.ask(2, rivals=3)
    for number, start in enumerate(range(0, len(events), 30)):
        streaming.take(events[start : start + 30])
        streaming.commit()
        streaming.tail()
        answering.ask(3, rivals=3 if number % 2 else 25, seed=number)
    return answering.write_down()


def test_answers_between_commits_are_equal_to_the_bit(
    streaming: Streaming, answering: LiveAnswering, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = answer_along(streaming, answering)
    DeltaTable(streaming.settings.table_uri(STREAM.table)).optimize.compact()
    report = replayed(streaming.settings)
    found = report.found
    assert (found.requests, found.equal, found.differ, found.by_model) == (count, count, 0, count), report.sentence
    assert report.has_passed
    assert not +found.not_recomputed
    assert {check.state for check in report.stores} == {"equal"}
    assert set(found.features) == set(FEATURES)
    assert found.features["other_count_20m"].pairs > 0
    assert found.features["own_sum_4d"].pairs > 0
    monkeypatch.setattr("forecache.plugins.parity.replay._INLINE_ROWS", 0)
    monkeypatch.setattr("forecache.plugins.parity.stream_replay._SHARE_ROWS", 16)
    by_workers = replay_day(streaming.settings, "ranking", processes=2).found
    assert (by_workers.equal, by_workers.features) == (count, found.features)


def test_answers_of_before_an_event_are_not_those_of_after_it(streaming: Streaming, answering: LiveAnswering) -> None:
    # Else every position would do, and the test above would prove nothing.
    answer_along(streaming, answering)
    rows = DeltaTable(streaming.settings.table_uri("request_log_ranking")).to_pyarrow_table().to_pylist()
    wrong = [{**row, "live": [{**each, "position": each["position"] - 1} for each in row["live"]]} for row in rows]
    DeltaTable(streaming.settings.table_uri("request_log_ranking")).delete()
    write_log(streaming.settings, wrong)
    assert replayed(streaming.settings).found.differ > 5


def test_a_row_of_the_stream_that_was_changed_afterwards_is_found_and_named(
    streaming: Streaming, answering: LiveAnswering
) -> None:
    answer_along(streaming, answering)
    settings = streaming.settings
    row = next(each for each in rows_in_table(settings) if each["amount"] and each["event_day"] > night_of(NOW))
    DeltaTable(settings.table_uri(STREAM.table)).update(
        updates={"amount": "amount + 1e12"}, predicate=f"payment = '{row['payment']}'"
    )
    report = replayed(settings)
    assert not report.has_passed
    first = report.found.first[0]
    assert first.kind == "feature"
    assert "sum" in first.name or "mean" in first.name, first
    assert f"Request {first.request_id} of" in report.sentence
    assert {name for name, each in report.found.features.items() if each.mismatch} <= {
        f"{of}_{name}" for of in ("own", "other") for name in VIEW.served_columns if "count" not in name
    }
    DeltaTable(settings.table_uri(STREAM.table)).update(
        updates={"amount": "1e20"}, predicate=f"payment = '{row['payment']}'"
    )
    assert not replayed(settings).has_passed, "a value that no sum takes is no event"


def test_rows_seen_before_their_commit_are_compared_once_it_has_followed(
    streaming: Streaming, answering: LiveAnswering
) -> None:
    events = payments(NOW, 90)
    streaming.take(events[:40])
    streaming.commit()
    streaming.tail()
    streaming.show_pending()
    for start in (40, 50, 60):  # of several puts, some before the same commit
        streaming.take(events[start : start + 10])
        answering.ask(4, rivals=4, seed=start)
    streaming.commit()
    answering.ask(2, rivals=4)  # committed, and not in the live layer yet
    streaming.take(events[70:])
    streaming.tail()
    answering.ask(30, rivals=4, seed=99)  # some keys pending, some from the layer, some from both
    shown = [json.loads(body) for card in range(CARDS) if (body := answering.answers.one(str(card).encode()))]
    assert {each["source"] for each in shown} >= {"live"}
    assert None in {each.get("position", 0) for each in shown}, "a pending row is shown, without its offsets"
    rows = answering.logged()
    assert sum(bool(each["pending"]) for row in rows for each in row["live"]) > 10
    assert any(each["pending"] and each["position"] > 0 for row in rows for each in row["live"])
    write_log(streaming.settings, rows)
    waiting = replayed(streaming.settings).found
    assert waiting.not_recomputed["pending"] == len(rows) - waiting.equal > 0
    assert waiting.differ == 0
    streaming.commit()
    done = replayed(streaming.settings)
    assert (done.found.equal, done.found.differ, done.found.not_recomputed.total()) == (len(rows), 0, 0), done.sentence


def test_rows_that_were_committed_in_another_order_than_seen_are_counted_by_that(
    streaming: Streaming, answering: LiveAnswering
) -> None:
    events = [replace(each, card=1) for each in payments(NOW, 8)]
    streaming.show_pending()
    streaming.take(events)
    answering.ask(6, rivals=6)
    rows = answering.logged()
    # As where the engine was killed before its commit, and the next one read the other partition first.
    for row in rows:
        for each in row["live"]:
            for pending in each["pending"]:
                pending["offsets"][0] = 0
    write_log(streaming.settings, rows)
    streaming.commit()
    found = replayed(streaming.settings).found
    saw = sum(any(each["pending"] for each in row["live"]) for row in rows)
    assert found.not_recomputed["pending"] == saw > 0
    assert (found.equal, found.differ) == (len(rows) - saw, 0)


def test_what_cannot_be_computed_again_is_counted_by_its_reason(streaming: Streaming, answering: LiveAnswering) -> None:
    count = answer_along(streaming, answering)
    settings = streaming.settings
    layout = open_store(settings, VIEW.name).layout
    layer = read_layer(layout)
    assert layer is not None
    write_layer(layout, replace(layer, plan={**layer.plan, "tile_minutes": 10}))
    assert +replayed(settings).found.not_recomputed == {"live": count}
    write_layer(layout, layer)
    table = Path(settings.table_uri(STREAM.table))
    table.rename(table.with_name("old"))
    without = replayed(settings).found
    assert (without.equal, +without.not_recomputed) == (2, {"live": count - 2}), "two came before the first event"
    table.with_name("old").rename(table)
    rows = DeltaTable(settings.table_uri("request_log_ranking")).to_pyarrow_table().to_pylist()
    DeltaTable(settings.table_uri("request_log_ranking")).delete()
    write_log(settings, [{**row, "live": None} for row in rows])
    assert +replayed(settings).found.not_recomputed == {"not logged": count}


def test_a_log_that_is_older_than_live_look_ups_is_gone_on_with(streaming: Streaming, answering: LiveAnswering) -> None:
    settings = streaming.settings
    answering.ask(5, rivals=2)
    rows, old = answering.logged(), schema().remove(schema().get_field_index("live"))
    append_rows(settings, "request_log_ranking", pa.Table.from_pylist(rows[:2], schema=old), partition_by=("day",))
    for number, content in enumerate(answering.packed[2:]):
        spooled = SpoolStream(settings.request_log_path / "ranking", replica=f"here#{number}", most_age_s=60.0)
        spooled.write(memoryview(encode_frame(content, 0)), 1, 0)
        spooled.close()
    assert commit_all(settings, "ranking") == 3
    report = replayed(settings)
    assert (report.found.equal, +report.found.not_recomputed) == (3, {"not logged": 2}), report.sentence


def test_the_states_of_a_removed_version_come_from_the_lake(streaming: Streaming, answering: LiveAnswering) -> None:
    count = answer_along(streaming, answering)
    settings = streaming.settings
    answering.close()  # a version stays as long as it is open, here and in the stream
    del streaming.step
    gc.collect()
    write_night(settings, night_of(NOW), seed=2)
    assert retire_versions(open_store(settings, VIEW.name), keep=0) == [1]
    report = replayed(settings)
    assert {check.state for check in report.stores} == {"removed"}, report.stores
    assert (report.found.equal, report.found.differ) == (count, 0), report.sentence
