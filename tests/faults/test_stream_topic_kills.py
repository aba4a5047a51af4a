"""Answers in a topic, each exactly once for consumers of committed messages, wherever the producer is killed."""

import json
from typing import Any

import pyarrow as pa
import pytest
from topic_job import KEY, commit_answers, send_answers
from warm import start

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings
from forecache.plugins.stream_answers.send_answers import AnswersProducer, last_version

pytestmark = pytest.mark.faults
TABLE, COMMITS, ROWS = "stream_answers", 4, 5


def run_job(settings: Settings, kafka: Any, topic: str, step: str = "", times: int = 0) -> int:
    """Send what is in the table, as far as the process lives; its exit status."""
    process = start(send_answers, settings.home_path, kafka.brokers, TABLE, topic, step, times)
    process.join(120)
    return int(process.exitcode)


def payments_in(kafka: Any, topic: str, *, committed_only: bool = True) -> list[str]:
    messages = kafka.messages(topic, committed_only=committed_only)
    return [json.loads(message.value())["payment"] for message in messages]


def expected(commits: int) -> list[str]:
    return [f"{position}-{place}" for position in range(commits) for place in range(ROWS)]


def test_a_killed_producer_neither_loses_nor_repeats_an_answer(settings: Settings, kafka: Any) -> None:
    topic = kafka.create_topic("answers")
    for _ in range(COMMITS):
        commit_answers(settings, TABLE, ROWS)
    for kill in (("produced", 1), ("flushed", 1), ("sent", 1), ("produced", 8), ("flushed", 2)):
        assert run_job(settings, kafka, topic, *kill) == -9, kill
        committed = payments_in(kafka, topic)
        assert committed == expected(len(committed) // ROWS)  # whole commits, in order
    assert run_job(settings, kafka, topic) == 0
    assert payments_in(kafka, topic) == expected(COMMITS)
    # The kills have left messages behind, of which only consumers of uncommitted messages know.
    assert len(payments_in(kafka, topic, committed_only=False)) > COMMITS * ROWS

    commit_answers(settings, TABLE, ROWS)
    assert run_job(settings, kafka, topic) == 0
    assert payments_in(kafka, topic) == expected(COMMITS + 1)


def test_a_second_producer_stops_the_first(settings: Settings, kafka: Any) -> None:
    topic, options = kafka.create_topic("answers"), {"bootstrap.servers": kafka.brokers}
    given: dict[str, Any] = {"topic": topic, "stream": "cards", "table_id": "one", "key": KEY}
    first = AnswersProducer(options, **given)
    rows = pa.table({"payment": ["a", "b"]})
    first.send(0, rows)
    second = AnswersProducer(options, **given)
    assert second.version == 0
    with pytest.raises(ConflictError, match="Another process sends the answers"):
        first.send(1, rows)
    second.send(1, rows)
    assert payments_in(kafka, topic) == ["a", "b", "a", "b"]
    assert last_version(options, topic, "cards", "one") == 1
    assert last_version(options, topic, "cards", "made anew") == -1
    assert last_version(options, topic, "another", "one") == -1
