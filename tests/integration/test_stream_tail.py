"""The tailer keeps a live layer as its stream's table is, commit by commit, whatever happens to log and layer."""

import json
from dataclasses import replace
from typing import Any

import pytest
from store_tables import NEXT_NIGHT, NIGHT, churn, predictions, scores, write_night
from stream_rows import StreamTable, click, live_churn, moment
from tailing import clicks, follow, layer, truth

from forecache.base.errors import ConflictError
from forecache.base.files import lock
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import publish_step
from forecache.serve.store import open_remote, open_store, publish, pull, push
from forecache.serve.store.live.layer import layer_from_json, read_tail_state
from forecache.serve.store.live.reader import LiveReader
from forecache.serve.store.push_pull import pull_layers, push_stream_only_stores
from forecache.stream.tail.tailer import Tailer

LATER = NIGHT.replace(year=1998, month=7, day=2)


def test_each_commit_is_applied_once_and_a_compaction_changes_nothing(settings: Settings) -> None:
    store, stream = live_churn(settings), StreamTable(settings)
    with Tailer(settings) as tailer:
        follow(tailer)
        assert layer(store) == {}
        stream.commit(clicks(0, 10, 0.25))
        follow(tailer)
        stream.commit([*clicks(5, 10, 0.5), click("00005", 0.75, moment(NEXT_NIGHT))])
        stream.compact()
        last = stream.commit(clicks(2, 2, None))
        follow(tailer)
        assert layer(store) == truth(stream)
        with LiveReader(store.layout) as reader:
            assert (reader.applied_version, reader.table_version) == (last, last)
            row = reader.get(b"00005")
        assert row is not None
        assert row.value == b'{"churn_probability":0.75,"risk_segment":"high"}'
        assert json.loads(row.provenance) == {"model_version": 3, "feature_version": f"{NIGHT}@7"}
        assert row.event_us == int(moment(NEXT_NIGHT).timestamp() * 1e6)


def test_one_that_was_ended_goes_on_behind_what_it_had_applied(settings: Settings) -> None:
    store, stream = live_churn(settings), StreamTable(settings)
    for number in range(4):
        stream.commit(clicks(number, 3, number / 4))
        with Tailer(settings) as tailer:
            follow(tailer)
        assert layer(store) == truth(stream)


@pytest.mark.parametrize("first", [False, True])
def test_where_the_log_was_cleaned_up_the_rows_are_read_from_the_table(settings: Settings, first: bool) -> None:
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit(clicks(0, 10, 0.25))
    if not first:
        with Tailer(settings) as tailer:
            follow(tailer)
    stream.commit(clicks(3, 10, 0.5))
    stream.commit(clicks(8, 10, 0.75))
    stream.forget_log()
    with Tailer(settings) as tailer:
        follow(tailer)
    assert layer(store) == truth(stream)
    assert read_tail_state(store.layout).gaps == 1


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are removed as soon as no version needs them."""
    monkeypatch.setattr("forecache.stream.tail.follower.RISE_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_version_that_is_not_served_yet_has_no_row_removed(settings: Settings) -> None:
    write_night(settings, predictions(scores(20)))
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit(clicks(0, 3, 0.25))

    def die(step: str) -> None:
        if step == "manifest written":
            raise InterruptedError(step)

    publish_step.on_step = die
    try:
        with pytest.raises(InterruptedError):
            publish(settings, churn())
    finally:
        publish_step.on_step = None
    assert store.version_numbers() == [1]
    with Tailer(settings) as tailer:
        follow(tailer)
        assert layer(store) == truth(stream)
    publish(settings, churn())
    with Tailer(settings) as tailer:
        follow(tailer)
        assert layer(store) == {}


def test_rows_of_the_first_version_are_removed_after_its_readers_have_it(settings: Settings) -> None:
    write_night(settings, predictions(scores(20)))
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit(clicks(0, 3, 0.25))
    with Tailer(settings) as tailer:
        follow(tailer)
        publish(settings, churn())
        _turn_at_once(tailer)
        follow(tailer)
        assert layer(store) == truth(stream)
        (follower,) = tailer._followers.values()
        assert follower._risen_at is not None
        follower._risen_at -= 60
        _turn_at_once(tailer)
        follow(tailer)
        assert layer(store) == {}


@pytest.mark.usefixtures("at_once")
def test_rows_that_no_version_needs_are_removed_and_one_with_a_lower_cut_brings_them_back(
    settings: Settings, tmp_path: Any
) -> None:
    write_night(settings, predictions(scores(20)))
    store, stream = live_churn(settings), StreamTable(settings)
    remote = open_remote(str(tmp_path / "remote"), {})
    replica_settings = load_settings(home=tmp_path / "replica", lake=settings.lake_uri)
    replica = live_churn(replica_settings)
    for value in (0.25, 0.5, 0.75):
        stream.commit(clicks(int(value * 8), 2, value))
        publish(settings, churn())
    stream.commit(clicks(9, 2, 0.125))
    push(store, remote)
    pull(replica, remote, keep=0)
    with Tailer(settings) as here, Tailer(replica_settings) as there:
        follow(here)
        follow(there)
        assert [manifest.cut for manifest in store.versions()] == [0, 1, 2]
        assert layer(store) == truth(stream, above=0)
        assert layer(replica) == truth(stream, above=2)
        assert store.rollback().cut == 1
        push(store, remote)
        with pytest.MonkeyPatch.context() as patched:
            # The tailer is this process, which waits: it turns while the pull does.
            patched.setattr("forecache.serve.store.live.reader.time.sleep", lambda _: _turn_at_once(there))
            pull(replica, remote, keep=0)
        assert layer(replica) == truth(stream, above=1)


def _turn_at_once(tailer: Tailer) -> None:
    for follower in tailer._followers.values():
        follower._kept_at = float("-inf")
    tailer.step()


def test_rows_of_keys_that_only_the_stream_has_expire_by_the_time_of_events(settings: Settings) -> None:
    store, stream = live_churn(settings, keep_h=24.0), StreamTable(settings)
    stream.commit([click("old", 0.5, moment(NIGHT, 8)), click("kept", 0.5, moment(NIGHT, 12))])
    stream.commit([click("new", 0.5, moment(NEXT_NIGHT, 9))])
    with Tailer(settings) as tailer:
        follow(tailer)
        assert layer(store).keys() == {"kept", "new"}
    stream.commit([click("later", 0.5, moment(LATER, 9))])
    stream.forget_log()
    with Tailer(settings) as tailer:
        follow(tailer)
    assert layer(store).keys() == {"later", "new"}


def test_a_second_tailer_waits_until_the_first_has_ended(settings: Settings) -> None:
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit(clicks(0, 5, 0.25))
    told: list[str] = []
    with lock(store.layout.streamed_folder / "live.lock"), Tailer(settings, waiting=told.append) as tailer:
        follow(tailer)
        tailer._look_at = float("-inf")
        follow(tailer)
        assert told == ["churn"]
    with Tailer(settings) as tailer:
        follow(tailer)
    assert layer(store) == truth(stream)


def test_a_table_that_was_made_anew_replaces_the_layer(settings: Settings) -> None:
    import shutil

    store, stream = live_churn(settings), StreamTable(settings)
    for number in range(3):
        stream.commit(clicks(number, 3, 0.25))
    with Tailer(settings) as tailer:
        follow(tailer)
    shutil.rmtree(stream.uri)
    stream.commit(clicks(7, 2, 0.5))
    with Tailer(settings) as tailer:
        follow(tailer)
        assert layer(store) == truth(stream)


def test_a_commit_whose_rows_claim_another_position_is_refused_in_words(settings: Settings) -> None:
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit(clicks(0, 2, 0.25))
    stream.commit(clicks(0, 2, 0.5), position=9)
    with Tailer(settings) as tailer:
        follow(tailer)
        assert layer(store)["00000"] == (0, 0.25)
    assert read_tail_state(store.layout).failure.startswith("The commit 1 of the table stream_clicks has rows whose")


def test_only_one_writer_has_a_layer(settings: Settings) -> None:
    from forecache.serve.store.live.writer import open_live_writer

    store = live_churn(settings)
    with open_live_writer(store.layout), pytest.raises(ConflictError, match="being written by process"):
        open_live_writer(store.layout)


def test_a_replica_has_the_layer_of_a_store_that_only_a_stream_fills(settings: Settings, tmp_path: Any) -> None:
    remote = open_remote(str(tmp_path / "remote"), {})
    replica_settings = load_settings(home=tmp_path / "replica", lake=settings.lake_uri)
    store, stream = live_churn(settings, keep_h=24.0), StreamTable(settings)
    stream.commit(clicks(0, 3, 0.25))
    assert push_stream_only_stores(settings, remote) == pull_layers(replica_settings, remote) == ["churn"]
    replica = open_store(replica_settings, "churn")
    with Tailer(replica_settings) as tailer:
        follow(tailer)
    assert layer(replica) == truth(stream)
    assert store.layout.live.read_bytes() == replica.layout.live.read_bytes()


def test_a_machine_of_many_does_not_set_back_a_layer_that_another_one_has_declared_since(
    settings: Settings, tmp_path: Any
) -> None:
    remote = open_remote(str(tmp_path / "remote"), {})
    store = live_churn(settings, keep_h=24.0)
    ours = store.layout.live.read_bytes()
    one_of_many = settings.model_copy(update={"lake": "s3://cloud/lake"})
    assert push_stream_only_stores(one_of_many, remote) == ["churn"]
    assert (remote.read("churn/LIVE") or (b"",))[0] == ours
    newer = layer_from_json(ours, what="LIVE")
    theirs = replace(newer, keep_h=48.0).to_json()
    remote.write("churn/LIVE", theirs)
    assert push_stream_only_stores(one_of_many, remote) == ["churn"]
    assert (remote.read("churn/LIVE") or (b"",))[0] == theirs
    assert push_stream_only_stores(settings, remote) == ["churn"], "the only publisher's is the truth"
    assert (remote.read("churn/LIVE") or (b"",))[0] == ours
