"""The protocol of message decoders, and code that all formats share."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from forecache.base.errors import InputError

if TYPE_CHECKING:
    from forecache.declare import Column

Texts = tuple[str | None, ...]


class InvalidMessageError(Exception):
    """The message cannot be decoded to an event."""


class Decoder(Protocol):
    """Reads the messages of one topic.

    Attributes:
        columns: The declared columns of a message.
    """

    columns: "Sequence[Column]"

    def read_record(self, message: bytes) -> Mapping[str, Any] | None:
        """Decode a message to values by name in the types of its format; None if `read_texts` has to judge it.

        Columns may be absent, and there may be members that are no columns.
        """

    def read_texts(self, message: bytes) -> tuple[Texts, bool]:
        """Decode a message to the texts of its values in the order of the columns; True if it has undeclared members.

        Raises:
            NoEvent: The message cannot be read, or lacks a column that is required.
        """


def record_texts(
    columns: "Sequence[Column]", record: Mapping[str, Any], as_text: Callable[[Any], str | None]
) -> tuple[Texts, bool]:
    """Return what `Decoder.read_texts` does, from a decoded record; absent optional columns are null.

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
        folder: Folder that the path of a schema file is relative to.

    Raises:
        SettingsError: The topic's schema cannot be read, or has other columns.
    """
    from forecache.declare import Avro

    if isinstance(topic.format, Avro):
        from forecache.stream.events.avro_events import AvroDecoder

        return AvroDecoder(topic, folder)
    from forecache.stream.events.json_events import JsonDecoder

    return JsonDecoder(topic)
