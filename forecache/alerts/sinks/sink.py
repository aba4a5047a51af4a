"""What every sink of alerts is."""

from typing import Protocol

from forecache.alerts.message import Message
from forecache.posting import Failed


class Sink(Protocol):
    """A receiver of messages."""

    @property
    def name(self) -> str:
        """Names it in the journal and for people; without secrets, and the same as long as the settings are."""

    def send(self, message: Message) -> Failed | None:
        """Hand a message over; None where the receiver has taken it. Raises nothing for what the receiver does."""
