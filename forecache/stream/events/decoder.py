"""What a format makes of messages, and what all formats share."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from forecache.errors import InputError

if TYPE_CHECKING:
    from forecache.pipeline import Column

Texts = tuple[str | None, ...]


class NoEvent(Exception):
    """A message is no event; its text says why."""


class Decoder(Protocol):
    """Reads the messages of one topic.

    Attributes:
        columns: Those that a message has.
    """

    columns: "Sequence[Column]"

    def record(self, message: bytes) -> Mapping[str, Any] | None:
        """The values of a message by name, as its format has them; None where `texts` is to decide about it.

        Those of columns may be absent, and there may be others.
        """

    def texts(self, message: bytes) -> tuple[Texts, bool]:
        """The texts of a message's values, in the order of the columns, and whether it has others.

        Raises:
            NoEvent: The message cannot be read, or lacks a column that is required.
        """


def texts_of(
    columns: "Sequence[Column]", record: Mapping[str, Any], as_text: Callable[[Any], str | None]
) -> tuple[Texts, bool]:
    """As `Decoder.texts`: what is absent is null where that is allowed, and what is not declared is left out.

    Raises:
        InputError: A column that is required is absent.
    """
    for column in columns:
        if column.required and column.name not in record:
            raise InputError(f"the column {column.name!r} is missing")
    known = sum(column.name in record for column in columns)
    return tuple(as_text(record.get(column.name)) for column in columns), len(record) > known


def decoder_of(topic: Any, folder: Path) -> Decoder:
    """The decoder of a declared topic.

    Args:
        folder: Which a schema's file is relative to.

    Raises:
        SettingsError: The schema that it names cannot be read, or has other columns.
    """
    from forecache.pipeline import Avro

    if isinstance(topic.format, Avro):
        from forecache.stream.events.avro_events import AvroDecoder

        return AvroDecoder(topic, folder)
    from forecache.stream.events.json_events import JsonDecoder

    return JsonDecoder(topic)
