"""The batches of pending rows, and the offsets that they reach."""

from collections.abc import Mapping
from dataclasses import dataclass

Offsets = Mapping[int, int]
"""By partition, the offset that is read next."""


@dataclass(frozen=True)
class Batch:
    """The rows of one commit.

    Attributes:
        batch: Its number, as the engine counts.
        until: Number of its last put.
        offsets: Behind its events.
        version: Of the table that holds it; None before its commit.
    """

    batch: int
    until: int
    offsets: dict[int, int]
    version: int | None


def stored_offsets(stored: Mapping[str, int]) -> dict[int, int]:
    """Offsets as JSON has them, whose keys are texts."""
    return {int(partition): offset for partition, offset in stored.items()}


def merged(before: Offsets, after: Offsets) -> dict[int, int]:
    """The offsets that are reached after both."""
    return {partition: max(before.get(partition, 0), after.get(partition, 0)) for partition in {**before, **after}}


def passed(wanted: Offsets, reached: Offsets) -> bool:
    """Whether every offset that is wanted has been reached."""
    return all(reached.get(partition, 0) >= offset for partition, offset in wanted.items())
