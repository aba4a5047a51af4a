"""How two states of a night differ, row by row: what the feed says, or what a comparison of both found."""

from dataclasses import dataclass

from forecache.store import hashing
from forecache.store.work import Encoded


class DifferencesUnavailable(Exception):
    """They cannot be had, or are too many for a small segment; the text says why, after "a full publish, because"."""


@dataclass(frozen=True)
class Differences:
    """What leads from the published rows to those that are to be published.

    Attributes:
        was: For each key concerned its published entry, empty where it has none. What is published was verified to be
            what the table held, so it is taken from there, which is faster than looking it up all over the base.
        final: For each of them its last entry, empty where it has left.
        come: The rows that were not there before, later versions of changed rows included.
        gone: The rows that are not there any more, earlier versions of changed rows included.
        origin: What they were read from.
    """

    was: dict[bytes, bytes]
    final: dict[bytes, bytes]
    come: Encoded
    gone: Encoded
    origin: str

    @property
    def rows(self) -> int:
        return self.come.rows + self.gone.rows

    @property
    def sum(self) -> int:
        """What they add to the content hash: rows that came and went again cancel out."""
        return hashing.subtract(self.come.sum, self.gone.sum)
