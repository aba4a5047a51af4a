"""A stream in several shards on one machine: its rows, its state, and what ends it."""

import logging
import threading
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from stream_jobs import stand_on_an_empty_night, state_of
from stream_sample import a_stream, payment, release, some_values
from stream_shards import PARTITIONS, SHARDED, Sent, assert_partitions_hold, keyed_topic, send
from stream_truth import assert_recomputes
from waiting import beside, wait_for

from forecache.base.errors import ConflictError, DamagedError, SettingsError
from forecache.base.settings import Settings, load_settings
from forecache.stream.engine.arrow_engine import ArrowEngine
from forecache.stream.engine.engine import engine_of, hold_shards
from forecache.stream.status import read_stream_status


@pytest.fixture
def settings(tmp_path: Path, kafka: Any) -> Settings:
    made = load_settings(home=tmp_path / "home", kafka_brokers=kafka.brokers)
    release(made)
    stand_on_an_empty_night(made)
    return made


def run(settings: Settings, topic: str, *, stop: threading.Event | None = None, **declared: Any) -> None:
    """Run the stream in this process until it has caught up, or `stop` is set."""
    how = {"skip_lost": declared.pop("skip_lost", False), "until_caught_up": stop is None}
    stream = a_stream(keyed_topic(topic), **{**SHARDED, **declared})
    engine_of(stream)(settings, stream, make_stop=lambda: stop or threading.Event(), **how).run()


def test_another_number_of_shards_goes_on_at_the_offsets_and_knows_what_was_there(
    settings: Settings, kafka: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topic, sent, values = kafka.create_topic("payments", partitions=PARTITIONS), Sent(), some_values(200)
    for number, shards in enumerate((4, 4, 2, 1, PARTITIONS + 1)):
        # Again some that were there, from before the last time as well.
        send(kafka, topic, [*values[40 * number : 40 * (number + 1)], *values[: 40 * number : 7]], sent)
        caplog.clear()
        with caplog.at_level(logging.INFO, "forecache.stream"):
            run(settings, topic, shards=shards)
        read = [record.args for record in caplog.records if "goes on" in record.msg]
        assert len(read) == shards
        if number == 1:
            assert {args[2] for args in read if isinstance(args, tuple)} == {0}, "each shard has the ids of its files"
        assert_partitions_hold(settings, sent, topic)
        state = state_of(settings)
        assert state.offsets == {str(partition): len(values) for partition, values in sent.items()}
        assert (state.lag_events, state.stopped_at > 0) == (0, True)
    assert_recomputes(settings, topic=keyed_topic(topic), **SHARDED)


def test_a_stream_that_runs_is_seen_and_is_not_changed_by_others(settings: Settings, kafka: Any) -> None:
    topic, sent = kafka.create_topic("payments", partitions=PARTITIONS), Sent()
    stream = a_stream(keyed_topic(topic), **SHARDED)
    send(kafka, topic, some_values(40), sent)
    assert read_stream_status(settings, stream).status == "never ran"
    with (
        beside(lambda stop: run(settings, topic, stop=stop)),
        beside(lambda stop: run(settings, topic, stop=stop)),
    ):
        wait_for(lambda: state_of(settings).offsets == {str(p): len(values) for p, values in sent.items()})
        assert read_stream_status(settings, stream).status == "runs"
        with (
            pytest.raises(ConflictError, match=r"'payments\.shards/\d-of-4' is run by process"),
            hold_shards(settings, stream, action="backfill"),
        ):
            pass
    assert read_stream_status(settings, stream).status == "stopped"
    with hold_shards(settings, stream, action="backfill"):
        pass
    assert_partitions_hold(settings, sent, topic)


def test_the_engine_of_a_shard_that_has_ended_is_not_kept_in_memory(settings: Settings, kafka: Any) -> None:
    topic = kafka.create_topic("payments", partitions=PARTITIONS)
    send(kafka, topic, some_values(8), Sent())
    stream = a_stream(keyed_topic(topic))
    ended = ArrowEngine(settings, stream, until_caught_up=True)
    ended.run()
    before = ref(ended)
    del ended
    ArrowEngine(settings, stream, until_caught_up=True).run()
    assert before() is None


def test_a_topic_that_got_more_partitions_or_is_another_one_ends_the_stream(settings: Settings, kafka: Any) -> None:
    from confluent_kafka.admin import AdminClient, NewPartitions

    topic, sent = kafka.create_topic("payments", partitions=PARTITIONS), Sent()
    send(kafka, topic, some_values(20), sent)
    run(settings, topic)
    admin = AdminClient({"bootstrap.servers": kafka.brokers})
    admin.create_partitions([NewPartitions(topic, PARTITIONS + 1)])[topic].result(30)
    for skip_lost in (False, True):
        with pytest.raises(SettingsError, match="has 5 partitions, and had 4 when the stream began"):
            run(settings, topic, skip_lost=skip_lost)
    assert_partitions_hold(settings, sent, topic)

    other, more = kafka.create_topic("payments", partitions=PARTITIONS), Sent()
    send(kafka, other, [payment(number) for number in range(1000, 1020)], more)
    with pytest.raises(DamagedError, match="was deleted and created again"):
        run(settings, other)
    run(settings, other, skip_lost=True)
    assert state_of(settings).offsets == {str(partition): len(values) for partition, values in more.items()}
