"""The protocol of a receiver of alerts."""

from typing import Protocol

from forecache.alerts.message import Message
from forecache.posting import Failed


class Sink(Protocol):
    """A receiver of messages."""

    @property
    def name(self) -> str:
        """Its name in the journal and for people; without secrets, and stable while the settings are."""

    def send(self, message: Message) -> Failed | None:
        """Send a message; returns None if the receiver accepted it. Raises nothing for failures of the receiver."""
