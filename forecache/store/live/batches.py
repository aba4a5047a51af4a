"""The batches of pending rows, and the offsets that they reach."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from forecache.store.live.state import CONFIRMED_AT, CONFIRMED_FROM, CONFIRMED_UNTIL

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


def tell_confirmed(cells: memoryview, batches: Iterable[Batch], start: int) -> None:
    """Let readers pass over rows that the live layer has by now, also where nobody removes them any more.

    Args:
        start: Rows whose number is not above it are not told of: a killed process left them.
    """
    known = [each for each in batches if each.version is not None and each.until > start]
    # A reader looks at the last of these cells first, and must never pass over a row that is not confirmed.
    if start > cells[CONFIRMED_FROM]:
        cells[CONFIRMED_UNTIL] = 0
    if known:
        cells[CONFIRMED_AT] = max(each.version or 0 for each in known)
    cells[CONFIRMED_FROM] = start
    if known:
        cells[CONFIRMED_UNTIL] = max(each.until for each in known)
