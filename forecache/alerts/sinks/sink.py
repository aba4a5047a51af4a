"""What every sink of alerts is."""

from dataclasses import dataclass
from typing import Protocol

from forecache.alerts.message import Message


@dataclass(frozen=True)
class Failed:
    """That a message was not taken.

    Attributes:
        reason: In a sentence, without secrets.
        refused: It never will be, such as one that is too large.
        retry_after_s: What the receiver asks to wait at the least.
    """

    reason: str
    refused: bool = False
    retry_after_s: float = 0.0


class Sink(Protocol):
    """A receiver of messages."""

    @property
    def name(self) -> str:
        """Names it in the journal and for people; without secrets, and the same as long as the settings are."""

    def send(self, message: Message) -> Failed | None:
        """Hand a message over; None where the receiver has taken it. Raises nothing for what the receiver does."""
