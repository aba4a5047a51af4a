"""A check that the splits of a training set are the label's horizon apart, so that no label reaches a later split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

_ORDER = ("train", "validation", "test")


@dataclass(frozen=True)
class Separation:
    """Verdict on the distance of the splits, with the reason in a sentence."""

    success: bool
    sentence: str


def check_splits(as_of: Mapping[str, Sequence[date]], rows: Mapping[str, int], *, horizon_days: int) -> Separation:
    """Check splits by their as-of dates and row counts, both keyed by "train", "validation", "test"."""
    empty = [split for split in _ORDER if not rows.get(split)]
    if empty:
        return Separation(False, f"The {empty[0]} split is empty.")
    gaps = {
        (earlier, later): (min(as_of[later]) - max(as_of[earlier])).days
        for earlier, later in zip(_ORDER, _ORDER[1:], strict=False)
    }
    (earlier, later), days = min(gaps.items(), key=lambda item: item[1])
    if days < horizon_days:
        return Separation(
            False, f"Labels of {earlier} reach into {later}: {days} days lie between, the horizon is {horizon_days}."
        )
    return Separation(True, f"{days} days or more lie between the splits, the label's horizon is {horizon_days}.")
