"""A stream that is killed anywhere, or whose broker, disk or rival does what it likes, ends with each event once."""

import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from stream_jobs import run_stream, running, settings_of, state_of, stream_on, stream_until
from stream_sample import POISON, payment, release, some_values, table_rows
from stream_truth import assert_recomputes, assert_tables_hold
from waiting import wait_for
from warm import die, start

from forecache.base.errors import ConflictError, DamagedError
from forecache.base.settings import Settings
from forecache.base.steps import STREAM_STEPS, stream_step

pytestmark = [pytest.mark.faults, pytest.mark.slow]
EVENT = {"freshness": "event"}


@pytest.fixture
def ready(tmp_path: Path, kafka: Any) -> Settings:
    settings = settings_of(tmp_path / "home", kafka.brokers)
    release(settings)
    return settings


@pytest.mark.parametrize("step", STREAM_STEPS)
def test_a_stream_killed_at_any_step_ends_with_each_event_once(ready: Settings, kafka: Any, step: str) -> None:
    topic, values = kafka.create_topic("payments"), some_values()
    kafka.send(topic, values[:70])
    process = start(stream_until, ready.home_path, kafka.brokers, topic, EVENT, step)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    kafka.send(topic, values[70:])
    engine = run_stream(ready.home_path, kafka.brokers, topic, EVENT)
    assert engine.figures.state.lag_events == 0
    assert_tables_hold(ready, values, topic=topic)
    letters = kafka.messages(f"{topic}-dead-letters")
    assert {message.key() for message in letters} == {
        f"{topic}-0-{row['kafka_offset']}".encode() for row in table_rows(ready, "stream_quarantine_payments")
    }


def test_a_stream_killed_again_and_again_over_partitions_recomputes_to_the_bit(ready: Settings, kafka: Any) -> None:
    topic, generator = kafka.create_topic("payments", partitions=3), random.Random(11)
    sent: list[bytes | None] = []
    for _ in range(6):
        process = start(stream_on, ready.home_path, kafka.brokers, topic, EVENT)
        for _ in range(4):
            batch = [payment(number) for number in range(len(sent), len(sent) + 60)]
            kafka.send(topic, [*batch, *generator.choices(sent or batch, k=5), generator.choice(POISON)])
            sent += batch
            time.sleep(generator.uniform(0.02, 0.2))
        die(process)
    run_stream(ready.home_path, kafka.brokers, topic, EVENT)
    rows = table_rows(ready, "stream_payments")
    assert sorted(row["payment_id"] for row in rows) == list(range(len(sent)))
    assert_recomputes(ready, topic=topic)
    counted = {(message.partition(), message.offset()) for message in kafka.messages(topic)}
    bad = table_rows(ready, "stream_quarantine_payments")
    places = [(row["kafka_partition"], row["kafka_offset"]) for row in bad]
    assert len(places) == len(set(places)) == 24
    assert set(places) <= counted


def test_a_second_engine_on_this_machine_is_refused(ready: Settings, kafka: Any) -> None:
    topic = kafka.create_topic("payments")
    kafka.send(topic, [payment(1)])
    with running(ready, topic, {}):
        wait_for(lambda: len(table_rows(ready, "stream_payments")) == 1)
        with pytest.raises(ConflictError, match="is run by process"):
            run_stream(ready.home_path, kafka.brokers, topic, {})


def test_a_second_engine_on_another_machine_is_refused_by_the_table(
    ready: Settings, kafka: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, values = kafka.create_topic("payments"), some_values()
    kafka.send(topic, values)
    other = tmp_path / "other"
    release(settings_of(other, kafka.brokers))
    monkeypatch.setenv("FORECACHE_LAKE", ready.lake_uri)
    first: list[str] = []

    def be_overtaken(name: str) -> None:
        if name == "rows written" and not first:
            first.append(name)
            run_stream(other, kafka.brokers, topic, {})

    monkeypatch.setattr(stream_step, "on_step", be_overtaken)
    with pytest.raises(ConflictError, match="Another process has committed to the stream 'payments'"):
        run_stream(ready.home_path, kafka.brokers, topic, {})
    assert_tables_hold(ready, values, topic=topic)
    assert "Another process has committed" in state_of(ready).last_error


def test_a_stream_goes_on_when_its_broker_comes_back(ready: Settings, kafka: Any) -> None:
    topic, values = kafka.create_topic("payments"), some_values()
    kafka.send(topic, values[:60])
    with running(ready, topic, {}):
        wait_for(lambda: state_of(ready).lag_events == 0 and state_of(ready).rows > 0)
        kafka.kill()
        wait_for(lambda: "Kafka" in state_of(ready).last_error or "cannot be read" in state_of(ready).last_error)
        kafka.restart()
        kafka.send(topic, values[60:])
        wait_for(lambda: state_of(ready).offsets.get("0") == len(values))
        wait_for(lambda: state_of(ready).last_error == "")
    assert_tables_hold(ready, values, topic=topic)


def test_messages_that_expired_unread_are_an_error_until_they_are_skipped(ready: Settings, kafka: Any) -> None:
    topic, values = kafka.create_topic("payments"), some_values(40)
    kafka.send(topic, values[:10])
    run_stream(ready.home_path, kafka.brokers, topic, EVENT)
    kafka.send(topic, values[10:])
    delete_before(kafka, topic, 25)
    for _ in range(2):
        with pytest.raises(DamagedError, match=r"Messages 10 to 24 of partition 0 .* expired") as caught:
            run_stream(ready.home_path, kafka.brokers, topic, EVENT)
        assert "--skip-lost" in caught.value.remedy
    run_stream(ready.home_path, kafka.brokers, topic, EVENT, skip_lost=True)
    offsets = {row["kafka_offset"] for row in table_rows(ready, "stream_payments")}
    assert offsets & set(range(10, 25)) == set()
    assert {offset for offset in offsets if offset >= 25}


def test_a_topic_that_was_made_anew_is_an_error_also_where_it_has_more_messages(ready: Settings, kafka: Any) -> None:
    topic, values = kafka.create_topic("payments"), some_values(30)
    kafka.send(topic, values[:10])
    run_stream(ready.home_path, kafka.brokers, topic, {})
    make_anew(kafka, topic)
    kafka.send(topic, [payment(number) for number in range(500, 530)])
    with pytest.raises(DamagedError, match="was deleted and created again"):
        run_stream(ready.home_path, kafka.brokers, topic, {})
    run_stream(ready.home_path, kafka.brokers, topic, {}, skip_lost=True)
    ids = [row["payment_id"] for row in table_rows(ready, "stream_payments")]
    assert set(range(500, 530)) <= set(ids)
    run_stream(ready.home_path, kafka.brokers, topic, {})  # the new topic is the stream's now
    assert [row["payment_id"] for row in table_rows(ready, "stream_payments")] == ids


def test_a_full_disk_stops_commits_until_there_is_space(
    ready: Settings, kafka: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.stream.table import writer

    topic, values = kafka.create_topic("payments"), some_values()
    whole, full = writer.write_file, threading.Event()

    def write(*arguments: Any) -> Any:
        if full.is_set():
            raise OSError(28, "No space left on device")
        return whole(*arguments)

    monkeypatch.setattr(writer, "write_file", write)
    full.set()
    kafka.send(topic, values)
    with running(ready, topic, {}):
        wait_for(lambda: "No space left" in state_of(ready).last_error or "disk is full" in state_of(ready).last_error)
        assert table_rows(ready, "stream_payments") == []
        full.clear()
        wait_for(lambda: state_of(ready).offsets.get("0") == len(values))
    assert_tables_hold(ready, values, topic=topic)


def test_a_new_release_answers_from_the_next_batch_on(ready: Settings, kafka: Any) -> None:
    topic = kafka.create_topic("payments")
    kafka.send(topic, [payment(number) for number in range(10)])
    with running(ready, topic, {}):
        wait_for(lambda: state_of(ready).rows == 10)
        release(ready, version=2)
        wait_for(lambda: state_of(ready).release == 2)
        kafka.send(topic, [payment(number) for number in range(10, 20)])
        wait_for(lambda: state_of(ready).rows == 20)
    rows = table_rows(ready, "stream_payments")
    assert [(row["release"], row["model_version"]) for row in rows] == [(1, 1)] * 10 + [(2, 2)] * 10


def delete_before(kafka: Any, topic: str, offset: int) -> None:
    """Have the broker drop messages, as it does when they expire."""
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": kafka.brokers})
    for future in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        future.result(30)


def make_anew(kafka: Any, topic: str) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": kafka.brokers})
    admin.delete_topics([topic])[topic].result(30)
    wait_for(lambda: topic not in admin.list_topics(timeout=10).topics)
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])[topic].result(30)
