"""A Kafka topic that carries the events of a source before they land as files."""

from dataclasses import dataclass, field
from functools import cached_property

from forecache.base.errors import SettingsError
from forecache.base.table_names import check_name, check_unique
from forecache.declare.checks.fields import check_fields, check_value
from forecache.declare.sources.column import Column
from forecache.declare.sources.source import Source


@dataclass(frozen=True)
class Json:
    """A message is a JSON object: a member for each column, times in ISO 8601."""


@dataclass(frozen=True)
class Avro:
    """A message is an Avro record: a field for each column.

    Attributes:
        schema: Schema of the writer: a file, relative to the folder of the project's package, or the schema as JSON.
        registry_wire: Messages begin with the five bytes of a schema registry, a zero and the schema's number.
    """

    schema: str
    registry_wire: bool = False

    def __post_init__(self) -> None:
        check_fields("`Avro`", self)
        check_value("`Avro`", "schema", self.schema, bool(self.schema), "Give a file, or the schema as JSON.")


@dataclass(frozen=True)
class Topic:
    """The events of a source in a Kafka topic. The same rows land later as the day's file.

    A message may lack columns that are not required, which are then null. Other fields of a message are ignored.

    Attributes:
        topic: Name of the topic in Kafka.
        source: Source of events with landing files and an event time that is a timestamp; a message is validated like a
            row of it.
        without: Columns that messages do not have yet, such as a label; they are null in the stream.
    """

    name: str
    topic: str
    source: Source
    format: Json | Avro = field(default_factory=Json)
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owner = f"Topic {self.name!r}"
        check_fields(owner, self)
        check_name("topic", self.name)
        check_topic_name(owner, self.topic)
        types = {column.name: column.type for column in self.source.columns}
        kind = types.get(self.source.event_time)
        if kind != "timestamp":
            raise SettingsError(
                f"{owner} carries the source {self.source.name!r}, whose rows have "
                f"{f'the event time {self.source.event_time!r}, a {kind}' if kind else 'no event time'}.",
                remedy="Give a source of events whose event time is a timestamp.",
            )
        check_unique("column in `without`", owner, self.without)
        for name in self.without:
            needed = {self.source.event_time, *self.source.unique}
            rule = f"Name columns of the source other than {', '.join(sorted(needed))}, which every message has."
            check_value(owner, "without", name, name in types and name not in needed, rule)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns of a message."""
        return tuple(column for column in self.source.columns if column.name not in self.without)


def check_topic_name(owner: str, name: str) -> None:
    """Refuse a name that Kafka does not take."""
    fits = 0 < len(name) < 250 and all(each.isascii() and (each.isalnum() or each in "._-") for each in name)
    rule = "A topic has 1 to 249 letters, digits, dots, underscores and hyphens."
    check_value(owner, "topic", name, fits, rule)
