"""The batches of pending rows, with the Kafka offsets after their events."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from forecache.serve.store.live.counters import CONFIRMED_AT, CONFIRMED_FROM, CONFIRMED_UNTIL

Offsets = Mapping[int, int]
"""Next offset to read by partition."""


@dataclass(frozen=True)
class PendingBatch:
    """The rows of one commit.

    Attributes:
        batch: Number that the engine gave it.
        until: Number of its last put.
        offsets: Offsets after its events.
        version: Version of the table that contains it; None before its commit.
    """

    batch: int
    until: int
    offsets: dict[int, int]
    version: int | None


def parse_offsets(stored: Mapping[str, int]) -> dict[int, int]:
    """Offsets as JSON has them, whose keys are texts."""
    return {int(partition): offset for partition, offset in stored.items()}


def merge_offsets(before: Offsets, after: Offsets) -> dict[int, int]:
    """The greater offset of each partition."""
    return {partition: max(before.get(partition, 0), after.get(partition, 0)) for partition in {**before, **after}}


def has_passed(wanted: Offsets, reached: Offsets) -> bool:
    """Return whether every wanted offset has been reached."""
    return all(reached.get(partition, 0) >= offset for partition, offset in wanted.items())


def write_confirmed(cells: memoryview, batches: Iterable[PendingBatch], start: int) -> None:
    """Write to the cells which rows are committed: readers skip those once the live layer has applied them.

    So a row is skipped even if no process removes it any more.

    Args:
        start: Rows whose number is not above it are excluded: a killed process left them.
    """
    known = [each for each in batches if each.version is not None and each.until > start]
    # A reader reads CONFIRMED_UNTIL first, and must never skip a row that is not confirmed.
    if start > cells[CONFIRMED_FROM]:
        cells[CONFIRMED_UNTIL] = 0
    if known:
        cells[CONFIRMED_AT] = max(each.version or 0 for each in known)
    cells[CONFIRMED_FROM] = start
    if known:
        cells[CONFIRMED_UNTIL] = max(each.until for each in known)
