"""A stream from a real broker under its sensor: started, killed, started again; then its day is a landing file."""

import json
import os
import signal
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from waiting import eventually
from watched_streams import TOPIC, cards, write_starts

from forecache.base.settings import Settings, load_settings
from forecache.cli.main import cli
from forecache.declare.project import Project
from forecache.operations.keep_streams_running import keep_running
from forecache.plugins.doctor.shared_services import check_streams
from forecache.plugins.table_sources.extract import extract
from forecache.stream.state import StreamState, read_starts, read_state

pytestmark = [pytest.mark.slow, pytest.mark.faults]
SUPPORT = Path(__file__).parent.parent / "support"
YESTERDAY = datetime.now(timezone.utc).replace(hour=12, minute=0) - timedelta(days=1)


def payments(numbers: range) -> list[bytes]:
    return [
        json.dumps(
            {
                "payment_id": number,
                "customer_id": number % 5,
                "amount": number / 7,
                "paid_at": (YESTERDAY + timedelta(milliseconds=number)).isoformat(),
            }
        ).encode()
        for number in numbers
    ]


def abort_transaction(brokers: str, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": brokers, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value)
    producer.flush(30)
    producer.abort_transaction(30)


def said(settings: Settings) -> StreamState:
    return read_state(settings, "cards") or StreamState()


def shown() -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["streams", "--json"], catch_exceptions=False)
    (found,) = json.loads(done.output)
    return dict(found)


def test_a_stream_that_is_killed_is_started_again_and_the_day_lands_with_each_event_once(
    tmp_path: Path, kafka: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = kafka.create_topic("cards", partitions=2)
    monkeypatch.syspath_prepend(str(SUPPORT))
    for name, value in (
        ("FORECACHE_HOME", str(tmp_path / "home")),
        ("FORECACHE_PROJECT", "watched_project"),
        ("FORECACHE_KAFKA_BROKERS", kafka.brokers),
        ("PYTHONPATH", os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])),
        (TOPIC, topic),
    ):
        monkeypatch.setenv(name, value)
    settings = load_settings()
    stream = cards()
    kafka.send(topic, payments(range(500)))
    try:
        assert [each.did for each in keep_running(settings, [stream])] == ["started"]
        assert eventually(lambda: said(settings).rows == 500)
        abort_transaction(kafka.brokers, topic, payments(range(9000, 9005)))
        # What was taken back has offsets, too, and is no event that waits: else the day would never be whole.
        assert eventually(lambda: sum(said(settings).end_offsets.values()) > 505 and said(settings).lag_events == 0)
        assert shown()["state"] == "runs"
        os.kill(said(settings).pid, signal.SIGKILL)
        kafka.send(topic, [b"no payment", *payments(range(300, 800))])
        assert eventually(lambda: shown()["state"] == "died")
        starts = read_starts(settings, "cards")
        write_starts(settings, "cards", replace(starts, last_at=time.time() - 60))
        assert [each.did for each in keep_running(settings, [stream])] == ["started"]
        assert eventually(lambda: said(settings).rows == 300 and said(settings).lag_events == 0)
        found = shown()
        assert (found["state"], found["bad"], found["repeats"], found["starts"]) == ("runs", 1, 200, 2)
    finally:
        os.kill(said(settings).pid, signal.SIGTERM)
    assert eventually(lambda: shown()["state"] == "stopped")
    result = extract(settings, stream.source, [YESTERDAY.date()])
    assert result.rows == 800
    rows = pq.read_table(Path(settings.landing_uri) / "payments" / f"{YESTERDAY.date()}.parquet")
    assert sorted(rows["payment_id"].to_pylist()) == list(range(800))
    assert sorted(rows["amount"].to_pylist()) == [number / 7 for number in range(800)]


def test_doctor_names_a_topic_that_is_not_there_and_a_broker_that_does_not_answer(
    kafka: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(topic: str, brokers: str = kafka.brokers) -> tuple[str, str, str]:
        monkeypatch.setenv(TOPIC, topic)
        project = Project({}, {}, streams={"cards": cards()})
        monkeypatch.setattr("forecache.declare.loading.read_project", lambda _: project)
        found = check_streams(load_settings(kafka_brokers=brokers))
        return found.state, found.found, found.remedy

    assert check(kafka.create_topic("cards")) == ("ok", f"cards: the topics are at {kafka.brokers}", "")
    state, found, remedy = check("payment")
    assert (state, found) == ("warn", "cards reads the topic payment, which is not there")
    assert remedy == "Run `forecache stream cards --create-topic`."
    monkeypatch.setattr("forecache.plugins.doctor.shared_services._PATIENCE_S", 1)
    state, found, _ = check("payment", "127.0.0.1:9")
    assert (state, "127.0.0.1:9" in found) == ("warn", True)
