"""Opens the topic of a stream at the offsets of its table, and checks that it is still the same topic."""

import logging

from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.stream.kafka.consumer import TopicReader
from forecache.stream.table.writer import CommitBatch, StreamWriter
from forecache.stream.table_schema import QUARANTINE, schema_of

logger = logging.getLogger("forecache.stream")


def open_topic(
    settings: Settings,
    stream: Stream,
    writer: StreamWriter,
    *,
    skip_lost: bool,
    batch: int = 1,
    linger_s: float = 0.0,
) -> TopicReader:
    """Open the topic at the table's offsets; lost messages are an error, or are skipped for good if `skip_lost`.

    Args:
        writer: The writer of the table; its `topic_id` is set.

    Raises:
        DamagedError: Messages that were not read yet are lost.
        NotFoundError: There is no such topic.
        UnavailableError: No broker answers.
    """
    topic = stream.topic.topic

    def open_reader(start: dict[int, int]) -> TopicReader:
        return TopicReader(settings, topic, start, batch=batch, linger_s=linger_s, skip_lost=skip_lost)

    reader = open_reader(writer.offsets)
    try:
        writer.topic_id = reader.topic_id
        is_other = not writer.is_known_topic()
        if is_other and not skip_lost:
            reader.refuse_other_topic()
        if is_other:
            reader.close()
            reader = open_reader({})
        if skip_lost and writer.offsets:
            gone = {partition: 0 for partition in writer.offsets if partition not in reader.next}
            upto = {**gone, **reader.next}
            logger.warning("The stream %s goes on at %s, and was at %s.", stream.name, upto, writer.offsets)
            writer.write(CommitBatch(schema_of(stream).empty_table(), QUARANTINE.empty_table(), upto), resets=True)
    except BaseException:
        reader.close()
        raise
    return reader
