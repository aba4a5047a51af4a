"""A stream whose declaration, freshness or nights change between two runs."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from live_support import live_row
from reader_support import write_version
from stream_sample import CUSTOMER, DAY, PACE, PAYMENTS, EmptyNight, a_stream, messages, payment, table_rows
from waiting import wait_for

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Table, Topic
from forecache.serve.store import open_remote, open_store, push
from forecache.serve.store.live.layer import read_layer
from forecache.serve.store.live.pending import open_pending_writer
from forecache.serve.store.live.reader import LiveReader
from forecache.serve.store.live.writer import open_live_writer
from forecache.serve.store.publishing.overlay import open_overlay
from forecache.stream.engine import engine
from forecache.stream.engine.pending_rows import OrphanedPendingRows, _answer_rows_function
from forecache.stream.engine.restore_state import rebuild_state
from forecache.stream.live_layers import write_layers
from forecache.stream.step import StreamStep
from forecache.stream.table.writer import CommitBatch, StreamWriter
from forecache.stream.tail.tailer import Tailer
from forecache.stream.tiles import batch_states as nights
from forecache.stream.tiles.batch_states import NoBatchState

NO_ANSWERS: dict[str, Any] = {"answers": None, "to": (Table(),)}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home")


def test_a_stream_goes_on_after_its_topic_got_a_column(settings: Settings) -> None:
    def stream_with(topic: Topic) -> Any:
        return replace(a_stream(**NO_ANSWERS), topic=topic)

    before = stream_with(Topic("payments", topic="payments", source=PAYMENTS, without=("shop",)))
    step = StreamStep(settings, before, bases=lambda view: EmptyNight())
    done = step.run(messages([payment(number) for number in range(3)]))
    StreamWriter(settings, before).write(CommitBatch(done.rows, done.bad, {0: 3}))
    after = stream_with(Topic("payments", topic="payments", source=PAYMENTS))
    step = StreamStep(settings, after, bases=lambda view: EmptyNight())
    assert rebuild_state(settings, after, step) == (3, 3)
    again = step.run(messages([payment(number) for number in range(5)]))
    assert again.repeats == 3
    StreamWriter(settings, after).write(CommitBatch(again.rows, again.bad, {0: 5}))
    step = StreamStep(settings, after, bases=lambda view: EmptyNight())
    assert rebuild_state(settings, after, step) == (5, 5)


def test_bad_messages_of_a_topic_that_was_made_anew_are_put_aside_though_old_ones_stood_at_their_offsets(
    settings: Settings,
) -> None:
    stream, sent = a_stream(**NO_ANSWERS), list[bytes]()
    step = StreamStep(settings, stream, bases=lambda view: EmptyNight())

    def writer(topic_id: str) -> StreamWriter:
        made = StreamWriter(settings, stream, send_bad=lambda bad: sent.extend(bad["content"].to_pylist()))
        made.topic_id = topic_id
        return made

    old = step.run(messages([b"old"]))
    writer("first").write(CommitBatch(old.rows, old.bad, {0: 1}))
    again = writer("second")
    again.write(CommitBatch(old.rows.slice(1), old.bad.slice(1), {0: 0}), resets=True)
    new = step.run(messages([b"new", b"newer"]))
    for upto in (1, 2):
        again.write(CommitBatch(new.rows, new.bad.slice(upto - 1, 1), {0: upto}))
    assert sent == [b"old", b"new", b"newer"]
    kept = [row["content"] for row in table_rows(settings, stream.quarantine_table)]
    assert sorted(kept) == sorted(sent)


def test_what_was_shown_before_its_commit_goes_once_a_stream_without_such_rows_has_passed_it(
    settings: Settings,
) -> None:
    stream = a_stream()
    write_layers(settings, stream)
    layout = open_store(settings, "payments").layout
    with open_pending_writer(layout, committed={}, version=-1) as killed:
        killed.put(1, [(b"4", live_row(0, 1))], {0: 5})
    table = StreamWriter(settings, stream)
    table.offsets, table.version = {0: 3}, 0
    left = OrphanedPendingRows(settings, stream, table)
    with open_live_writer(layout) as live, LiveReader(layout) as reader:
        for offsets, version in (({0: 3}, 1), ({0: 5}, 2)):
            table.offsets = offsets
            left.confirm(0, version)
            live.apply(version - 1, [])
            left.sweep()
            assert reader.get(b"4") is not None
        row = live_row(2, 2)
        live.apply(2, [(b"4", row)])
        left.sweep()
        assert reader.get(b"4") == row
    left.close()


class _Store:
    """A store whose pointer can be moved to a version that cannot be used."""

    serving = 1

    def pointer(self) -> "_Store":
        return self

    def snapshot(self) -> int:
        return self.serving


class _Night(EmptyNight):
    def __init__(self, view: Any, version: int) -> None:
        if version == 2:
            raise UnavailableError("Version 2 was published by another declaration.", remedy="Run its night again.")
        super().__init__(name=f"2026-03-01@{version}")
        object.__setattr__(self, "version", version)


def test_events_stand_on_the_last_night_where_a_newer_one_cannot_be_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _Store()
    monkeypatch.setattr(nights, "open_store", lambda settings, name: store)
    monkeypatch.setattr(nights, "ServedState", _Night)
    monkeypatch.setattr(nights, "_LOOK_S", -1.0)
    served = nights.ServedStates(settings)
    step = StreamStep(settings, a_stream(**NO_ANSWERS), bases=served)
    assert (served(CUSTOMER).name, step.problem) == ("2026-03-01@1", "")
    store.serving = 2
    assert served(CUSTOMER).name == "2026-03-01@1"
    assert "another declaration" in step.problem
    store.serving = 3
    assert (served(CUSTOMER).name, step.problem) == ("2026-03-01@3", "")


def test_a_night_that_is_too_old_to_be_merged_is_told(settings: Settings) -> None:
    step = StreamStep(settings, a_stream(**NO_ANSWERS), bases=lambda view: EmptyNight())
    step.run(messages([payment(1)]))
    assert step.problem == ""
    nights_kept = step.views[CUSTOMER.name].plan.nights
    step.run(messages([payment(2, at=f"{DAY + timedelta(days=nights_kept)}T10:00:00Z")]))
    assert f"can be merged for {nights_kept} days" in step.problem
    step.run(messages([payment(3)]))
    assert step.problem == ""


def test_keys_without_an_event_that_a_night_needs_are_forgotten(settings: Settings) -> None:
    night = EmptyNight()
    step = StreamStep(settings, a_stream(**NO_ANSWERS), bases=lambda view: night)
    view = step.views[CUSTOMER.name]
    step.run(messages([payment(1), payment(2)]))
    later = date(2026, 3, 3)
    step.run(messages([payment(6, at=f"{later}T10:00:00Z")]))
    assert set(view.entries) == {b"1", b"2"}

    def run_on(as_of: date, numbers: Sequence[int]) -> None:
        nonlocal night
        night = replace(night, as_of=as_of)
        step.run(messages([payment(number, at="2026-03-09T10:00:00Z") for number in numbers]))

    run_on(DAY + timedelta(days=view.plan.nights - 1), [13])
    assert set(view.entries) == {b"1", b"2", b"3"}
    run_on(DAY + timedelta(days=view.plan.nights), [14])
    assert set(view.entries) == {b"1", b"3", b"4"}


def test_a_row_without_an_answer_takes_the_place_of_no_other(settings: Settings) -> None:
    stream = a_stream(answers=PACE)
    write_layers(settings, stream)
    writer = StreamWriter(settings, stream)
    for offset, night in enumerate((EmptyNight(), NoBatchState())):
        step = StreamStep(settings, stream, bases=lambda view, night=night: night)  # type: ignore[misc]
        step.answerer.switch_to(step.answerer.find_newer())
        done = step.run(messages([payment(5 + offset, customer_id=0, amount=8.0)], first=offset))
        writer.write(CommitBatch(done.rows, done.bad, {0: offset + 1}))
    assert done.rows["pace"].to_pylist() == [None]
    layout = open_store(settings, PACE.name).layout
    with Tailer(settings) as tailer:
        while tailer.step():
            pass
    with LiveReader(layout) as reader:
        row = reader.get(b"0")
    assert row is not None
    assert (row.position, row.value) == (0, b'{"pace":2.0,"band":"slow"}')
    assert open_live_rows(settings, stream, done) == []
    layer = read_layer(layout)
    assert layer is not None
    overlay = open_overlay(settings, layer, key=layer.key, fields=layer.fields, night=DAY - timedelta(days=1))
    assert overlay is not None
    assert overlay.rows is not None
    assert overlay.rows["pace"].to_pylist() == [2.0]


def open_live_rows(settings: Settings, stream: Any, done: Any) -> list[Any]:
    """What is shown before the commit."""
    layer = read_layer(open_store(settings, PACE.name).layout)
    assert layer is not None
    return _answer_rows_function(layer)(done, {})


def test_an_engine_with_an_empty_disk_pulls_the_versions_that_its_views_stand_on_and_newer_ones(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The versions come from the remote; the lake, which is in a bucket here, is not asked for them.
    given = {"lake": "s3://nowhere/lake", "store_remote": str(tmp_path / "remote")}
    settings = load_settings(home=tmp_path / "publisher", **given)
    empty, remote = load_settings(home=tmp_path / "empty", **given), open_remote(settings.store_remote, {})

    def publish() -> None:
        write_version(settings.store_path, CUSTOMER.name, {"1": {"score": 0.5}})
        write_layers(settings, a_stream(**NO_ANSWERS))  # as a publish does
        push(open_store(settings, CUSTOMER.name), remote)

    def served() -> int | None:
        return open_store(empty, CUSTOMER.name).pointer().serving

    monkeypatch.setattr(engine, "STREAM_VIEWS", replace(engine.STREAM_VIEWS, every_s=0.05))
    publish()
    with engine.follow_views(empty, a_stream(**NO_ANSWERS)):
        assert served() == 1
        publish()
        wait_for(lambda: served() == 2)
        assert read_layer(open_store(empty, CUSTOMER.name).layout) is not None
        assert remote.size(f"{CUSTOMER.name}/LIVE")
