"""Where the rows of a stream go."""

from dataclasses import dataclass

from forecache.pipeline.checks.checking import check_fields, check_least, check_value


@dataclass(frozen=True)
class Table:
    """The Delta table `stream_<name>`: a row for each event, with what was answered; every stream has it."""


@dataclass(frozen=True)
class LiveRows:
    """The live layer that the reader answers from.

    Attributes:
        keep_h: Hours of event time after which a row of a key that no version has is removed.
    """

    keep_h: float = 24.0

    def __post_init__(self) -> None:
        check_fields("`LiveRows`", self)
        check_least("`LiveRows`", self, 0, "keep_h", above=True)


@dataclass(frozen=True)
class ToTopic:
    """A Kafka topic: the row of each event as JSON, exactly once for consumers that read committed messages."""

    topic: str

    def __post_init__(self) -> None:
        check_fields("`ToTopic`", self)
        fits = 0 < len(self.topic) < 250 and all(c.isascii() and (c.isalnum() or c in "._-") for c in self.topic)
        rule = "A topic has 1 to 249 letters, digits, dots, underscores and hyphens."
        check_value("`ToTopic`", "topic", self.topic, fits, rule)


Result = Table | LiveRows | ToTopic
