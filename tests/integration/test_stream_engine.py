"""The engine of one process: what is visible when, what it says of itself, and how the command ends."""

import json
import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from stream_jobs import run_stream, running, settings_of, stream_until
from stream_sample import payment, release, table_rows
from waiting import wait_for
from warm import start

from forecache.base.settings import PROJECT_ROOT, Settings
from forecache.serve.store import open_store
from forecache.serve.store.live.layer import PENDING, LiveRow
from forecache.serve.store.live.reader import LiveReader
from forecache.stream.engine import arrow_engine as arrow
from forecache.stream.engine.restore_state import tile_saver
from forecache.stream.state import StreamState, is_running, read_state

pytestmark = pytest.mark.slow
NEVER = {"freshness": "event", "commit_s": 3600.0}


@pytest.fixture
def ready(tmp_path: Path, kafka: Any) -> Settings:
    settings = settings_of(tmp_path / "home", kafka.brokers)
    release(settings)
    return settings


def visible(settings: Settings, store: str, key: bytes) -> LiveRow | None:
    return LiveReader(open_store(settings, store).layout).get(key)


def test_answers_and_tiles_are_visible_before_the_commit(ready: Settings, kafka: Any) -> None:
    topic = kafka.create_topic("payments")
    with running(ready, topic, NEVER):
        wait_for(lambda: is_running(ready.home_path, "payments"))
        kafka.send(topic, [payment(1), payment(2)])
        row = wait_for(lambda: visible(ready, "payments", b"2"))
        assert row.position == PENDING
        assert json.loads(row.value)["answered_by"] == "model"
        assert json.loads(row.provenance) == {
            "model_version": 1,
            "release": 1,
            "feature_version": "customer=2026-03-01@7",
        }
        tiles = wait_for(lambda: visible(ready, "customer", b"2"))
        assert tiles.position == PENDING
        assert json.loads(tiles.provenance) == [2], "the offset behind the events that are in them"
        assert table_rows(ready, "stream_payments") == []
    stored = {row["payment_id"]: row for row in table_rows(ready, "stream_payments")}
    assert stored[2]["score"] == json.loads(row.value)["score"]


def test_what_was_visible_stays_when_the_engine_is_killed_and_comes_again(ready: Settings, kafka: Any) -> None:
    topic = kafka.create_topic("payments")
    kafka.send(topic, [payment(number) for number in range(5)])
    process = start(stream_until, ready.home_path, kafka.brokers, topic, NEVER, "pending written")
    process.join(120)
    before = {number: visible(ready, "payments", str(number).encode()) for number in range(5)}
    seen = [number for number, row in before.items() if row is not None]
    assert seen
    assert table_rows(ready, "stream_payments") == []
    engine = run_stream(ready.home_path, kafka.brokers, topic, {"freshness": "event"})
    assert engine.figures.state.rows == 5
    for number in seen:
        row = visible(ready, "payments", str(number).encode())
        assert row is not None
        assert row.value == before[number].value  # type: ignore[union-attr]


def test_a_stream_says_what_it_has_done(ready: Settings, kafka: Any) -> None:
    topic = kafka.create_topic("payments", partitions=2)
    kafka.send(topic, [payment(1), payment(1), b"?"], partition=0)
    kafka.send(topic, [payment(2, at="2026-03-01T10:00:00Z")], partition=1)
    run_stream(ready.home_path, kafka.brokers, topic, {})
    state = read_state(ready, "payments") or StreamState()
    assert (state.rows, state.bad, state.repeats, state.late, state.lag_events) == (2, 1, 1, 1, 0)
    assert state.offsets == state.end_offsets == {"0": 3, "1": 1}
    assert state.release == 1
    assert state.stopped_at >= state.committed_at > state.started_at > 0
    assert state.delay_p50_s is not None
    assert 0 < state.delay_p50_s < 120
    assert state.last_error == ""
    assert not is_running(ready.home_path, "payments")


def test_a_start_reads_the_rows_behind_the_file_of_tiles(
    ready: Settings, kafka: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    topic = kafka.create_topic("payments")
    kafka.send(topic, [payment(number) for number in range(40)])
    monkeypatch.setattr(arrow, "tile_saver", partial(tile_saver, commits=1))
    with caplog.at_level(logging.INFO, "forecache.stream"):
        for rows in (40, 0):
            run_stream(ready.home_path, kafka.brokers, topic, {"freshness": "event"})
            assert len(table_rows(ready, "stream_payments")) == 40
            assert (read_state(ready, "payments") or StreamState()).rows == rows
    said = [message for message in caplog.messages if "goes on" in message]
    assert said == ["The stream payments goes on: 0 rows were read for tiles, 0 for ids."] * 2


def test_marks_of_transactions_are_no_events_and_are_read(ready: Settings, kafka: Any) -> None:
    from confluent_kafka import Producer

    topic = kafka.create_topic("payments")
    producer = Producer({"bootstrap.servers": kafka.brokers, "transactional.id": topic})
    producer.init_transactions(30)
    for number, ends in enumerate(
        (producer.commit_transaction, producer.abort_transaction, producer.commit_transaction)
    ):
        producer.begin_transaction()
        producer.produce(topic, payment(number))
        ends(30)
    for _ in range(2):
        run_stream(ready.home_path, kafka.brokers, topic, {})
    assert [row["payment_id"] for row in table_rows(ready, "stream_payments")] == [0, 2]


def forecache(settings: Settings, topic: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {
        "FORECACHE_HOME": str(settings.home_path), "FORECACHE_PROJECT": "paid_project", "PAYMENTS_TOPIC": topic,
        "FORECACHE_KAFKA_BROKERS": settings.kafka_brokers, **environment,
        "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), str(PROJECT_ROOT / "tests" / "support")]),
    }  # fmt: skip
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    command = [sys.executable, "-m", "forecache.cli.main", "stream", *arguments]
    return subprocess.run(command, env={**variables, **given}, capture_output=True, text=True, timeout=120)


def test_the_command_runs_a_stream_and_says_why_it_cannot(ready: Settings, kafka: Any) -> None:
    topic = kafka.create_topic("payments")
    kafka.send(topic, [payment(number) for number in range(3)])
    done = forecache(ready, topic, "payments", "--until-caught-up")
    assert done.returncode == 0, done.stderr
    assert len(table_rows(ready, "stream_payments")) == 3
    missing = forecache(ready, "nowhere", "payments", "--until-caught-up")
    assert missing.returncode == 3
    assert "There is no topic 'nowhere'" in missing.stderr
    assert "forecache stream NAME --create-topic" in missing.stderr
    unknown = forecache(ready, topic, "orders")
    assert unknown.returncode == 3
    assert "orders" in unknown.stderr


def test_a_topic_that_is_missing_is_created_if_the_command_is_told_to(ready: Settings, kafka: Any) -> None:
    for _ in range(2):  # the second finds the topic that the first created
        done = forecache(ready, "created-by-the-command", "payments", "--until-caught-up", "--create-topic")
        assert done.returncode == 0, done.stderr
    kafka.send("created-by-the-command", [payment(1)])
    assert forecache(ready, "created-by-the-command", "payments", "--until-caught-up").returncode == 0
    assert len(table_rows(ready, "stream_payments")) == 1


def test_a_broker_that_is_not_there_is_one_sentence(ready: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from forecache.stream.kafka import consumer

    monkeypatch.setattr(consumer, "_TIMEOUT_S", 1.0)
    from forecache.base.errors import UnavailableError

    with pytest.raises(UnavailableError, match="brokers: 127.0.0.1:9") as caught:
        run_stream(ready.home_path, "127.0.0.1:9", "payments", {})
    assert "FORECACHE_KAFKA_BROKERS" in caught.value.remedy
