"""Sends the answers of a stream while it runs, in a thread of its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.errors import open_data_file
from forecache.kit.delta.files import place_of
from forecache.kit.delta.log import open_if_exists, read_entry
from forecache.kit.process.periodic import Backoff, PeriodicThread
from forecache.kit.process.wakes import STREAM_ANSWERS
from forecache.stream.table_schema import PLACE, POSITION
from forecache.stream.topic.producer import AnswersProducer


class CommittedRows:
    """The commits of a table after a version.

    Attributes:
        version: The last version that was read.
    """

    def __init__(self, settings: Settings, table: str, version: int) -> None:
        self.version = version
        self._settings, self._table = settings, table
        self._files = place_of(settings, table).open()
        self._looked_behind = False

    def read(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield the new commits, each with its rows in order; commits without rows are left out.

        The log is read entry by entry. If it lacks the next one at the first call, since a checkpoint of the log
        removes old entries, the rows are found by their position.
        """
        while True:
            rows = self._read_next()
            if rows is None:
                break
            if rows.num_rows:
                yield self.version, rows
        if not self._looked_behind:
            self._looked_behind = True
            yield from self._read_by_position()

    def _read_by_position(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield commits without log entries, from the files of the newest version."""
        delta = open_if_exists(self._settings, self._table)
        if delta is None or delta.version() <= self.version:
            return
        newest = int(delta.version())
        found = open_dataset(delta).to_table(filter=pc.field(POSITION) > self.version)
        found = found.sort_by([(POSITION, "ascending"), (PLACE, "ascending")])
        for position in pc.unique(found[POSITION]).to_pylist():
            self.version = position
            yield position, found.filter(pc.equal(found[POSITION], position))
        self.version = newest

    def _read_next(self) -> pa.Table | None:
        """Read the rows of the next log entry; None if it does not exist."""
        try:
            entry = read_entry(self._files, self.version + 1, self._table)
        except FileNotFoundError:
            return None
        adds = [action["add"] for action in entry if action.get("add", {}).get("dataChange")]
        tables = [self._rows(add) for add in adds]
        self.version += 1
        return pa.concat_tables(tables).sort_by(PLACE) if tables else pa.table({})

    def _rows(self, add: Any) -> pa.Table:
        from urllib.parse import unquote

        with open_data_file(self._files, unquote(add["path"]), self._table) as source:
            rows = pq.ParquetFile(source).read()
        for name, value in add["partitionValues"].items():
            rows = rows.append_column(name, pa.array([value] * rows.num_rows, pa.string()))
        return rows


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
