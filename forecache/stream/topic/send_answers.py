"""Sends the answers of a stream while it runs, in a thread of its own."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.kit.delta.log import open_if_exists
from forecache.stream.topic.committed_rows import CommittedRows
from forecache.stream.topic.producer import AnswersProducer

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.5
_CLOSE_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


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
    over = threading.Event()

    def keep_sending() -> None:
        pause = _FIRST_PAUSE_S
        while not over.is_set():
            try:
                send_until(settings, stream, options, over.wait)
                pause = _FIRST_PAUSE_S
            except ForecacheError as error:
                failed(str(error))
            except Exception as error:  # noqa: BLE001 - the stream continues, and reports it
                _log.exception("Sending answers failed")
                failed(f"Sending answers failed: {error}")
            over.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    thread = threading.Thread(target=keep_sending, name="forecache-answers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=_CLOSE_S)


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
        is_over = wait(_LOOK_EVERY_S)
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
            is_over = wait(_LOOK_EVERY_S)
    finally:
        producer.close()
