"""The days of requests in each split of a real-time model's training set."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from forecache.base.errors import InputError
from forecache.declare import Realtime
from forecache.lake.training_sets.training_splits import SPLITS

_DAY = timedelta(days=1)


def request_days(realtime: Realtime, night: date) -> dict[str, tuple[date, ...]]:
    """The days of each split for a training night, ascending; see `forecache.Examples`.

    The outcome of every request is known by the night, and of those of a split before the first request of the next.

    Raises:
        InputError: The data do not reach back far enough for a single day to train on.
    """
    examples = realtime.trained_examples
    gap = timedelta(days=examples.horizon_days)
    days: dict[str, tuple[date, ...]] = {}
    last = night - gap
    for split in reversed(SPLITS):
        first = last - getattr(examples, f"{split}_days") * _DAY + _DAY
        days[split] = _date_range(max(first, realtime.start + _DAY), last)
        last = first - _DAY - gap
    if not days["train"]:
        lacking = (realtime.start + _DAY - _last_to_train_on(realtime, night)).days
        raise InputError(
            f"Real-time model {realtime.name!r} cannot train on the night {night}: its data starts on "
            f"{realtime.start}.",
            remedy=f"Train on {night + timedelta(days=lacking)} or later, or give validation and test fewer days.",
        )
    return {split: days[split] for split in SPLITS}


def span_of(days: Mapping[str, Sequence[date]]) -> tuple[date, date]:
    """First and last day of all splits."""
    return days[SPLITS[0]][0], days[SPLITS[-1]][-1]


def _last_to_train_on(realtime: Realtime, night: date) -> date:
    examples = realtime.trained_examples
    return night - timedelta(days=examples.test_days + examples.validation_days + 3 * examples.horizon_days)


def _date_range(first: date, last: date) -> tuple[date, ...]:
    return tuple(first + timedelta(days=number) for number in range((last - first).days + 1))
