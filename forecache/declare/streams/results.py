"""The destinations of a stream's rows."""

from dataclasses import dataclass

from forecache.declare.checks.fields import check_fields, check_least
from forecache.declare.streams.topic import check_topic_name


@dataclass(frozen=True)
class Table:
    """The Delta table `stream_<name>`: a row for each event, with its answer; every stream has it."""


KEEP_H = 24.0
"""Default of `LiveRows.keep_h`."""


@dataclass(frozen=True)
class LiveRows:
    """The live layer that the reader answers from.

    Attributes:
        keep_h: For a stream with a `Realtime` as `answers`, hours of event time after which the answer to an event is
            removed; None: 24. With a `Pipeline` it is None: a row stays until all retained versions include it.
    """

    keep_h: float | None = None

    def __post_init__(self) -> None:
        check_fields("`LiveRows`", self)
        check_least("`LiveRows`", self, 0, "keep_h", above=True)


@dataclass(frozen=True)
class ToTopic:
    """A Kafka topic: the row of each event as JSON, exactly once for consumers that read committed messages."""

    topic: str

    def __post_init__(self) -> None:
        check_fields("`ToTopic`", self)
        check_topic_name("`ToTopic`", self.topic)


Result = Table | LiveRows | ToTopic
