"""What a format makes of messages, and what all formats share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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
        """The values of a message by column, as its format has them; None where `texts` is to decide about it.

        A column that is not required may be absent: it is null.
        """

    def texts(self, message: bytes) -> Texts:
        """The texts of a message's values, in the order of the columns.

        Raises:
            NoEvent: The message cannot be read, or has other columns.
        """


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
