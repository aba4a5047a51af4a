"""Where the rows of a stream go."""

from dataclasses import dataclass

from forecache.pipeline.checks.checking import check_fields, check_least
from forecache.pipeline.streams.topic import check_topic_name


@dataclass(frozen=True)
class Table:
    """The Delta table `stream_<name>`: a row for each event, with what was answered; every stream has it."""


KEEP_H = 24.0
"""`LiveRows.keep_h` where none is declared."""


@dataclass(frozen=True)
class LiveRows:
    """The live layer that the reader answers from.

    Attributes:
        keep_h: Of a stream that a `Realtime` answers, hours of event time after which the answer to an event is
            removed; None: 24. A `Pipeline` takes none: a row of its key stays until all retained versions include it.
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
