"""Sends the answers of a stream while it runs, in a thread of its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.kit.delta.log import open_if_exists
from forecache.kit.process.periodic import Backoff, PeriodicThread
from forecache.kit.process.wakes import STREAM_ANSWERS
from forecache.stream.topic.committed_rows import CommittedRows
from forecache.stream.topic.producer import AnswersProducer

_CLOSE_S = 30.0
_BACKOFF = Backoff(1.0, 30.0)


@contextmanager
def send_answers(
    settings: Settings, stream: Stream, options: Mapping[str, Any], failed: Callable[[str], None]
) -> Iterator[None]:
    """Send the answers in the table and those that are committed while the block runs, if the stream declares a topic.

    A producer that fails is replaced after a pause; unsent answers are still in the table.

    Args:
        options: Options of the Kafka client, with `bootstrap.servers`.
        failed: Called with one sentence at each failure.
    """
    if stream.to_topic is None:
        yield
        return

    def wait(seconds: float) -> bool:
        thread.note_success()  # all that is committed was sent
        return thread.stopping.wait(seconds)

    def keep_sending() -> None:
        try:
            send_until(settings, stream, options, wait)
        except Exception as error:
            failed(str(error) if isinstance(error, ForecacheError) else f"Sending answers failed: {error}")
            raise

    thread = PeriodicThread(STREAM_ANSWERS, keep_sending, at_once=True, backoff=_BACKOFF, close_s=_CLOSE_S)
    with thread:
        yield


def send_until(settings: Settings, stream: Stream, options: Mapping[str, Any], wait: Callable[[float], bool]) -> None:
    """Send answers until `wait`, called with seconds if there is nothing to send, returns True.

    Raises:
        ConflictError: Another process sends them.
        UnavailableError: The broker does not answer.
    """
    assert stream.to_topic is not None
    is_over = False
    while (delta := open_if_exists(settings, stream.table)) is None:
        if is_over:
            return
        is_over = wait(STREAM_ANSWERS.every_s)
    producer = AnswersProducer(
        options,
        topic=stream.to_topic.topic,
        stream=stream.name,
        table_id=str(delta.metadata().id),
        key=stream.key or stream.source.unique,
    )
    committed = CommittedRows(settings, stream.table, producer.version)
    try:
        while True:
            for version, rows in committed.read():
                producer.send(version, rows)
            if is_over:
                return
            # Answers that were committed before the end are still sent.
            is_over = wait(STREAM_ANSWERS.every_s)
    finally:
        producer.close()
