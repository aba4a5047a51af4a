"""Advice on right-sizing from measured use: trainings, scoring, readers, and batch against real time."""

from collections.abc import Sequence
from dataclasses import dataclass

from forecache.lake.costs import hourly_price
from forecache.settings import Settings


@dataclass(frozen=True)
class Advice:
    """One piece of advice: a setting or declaration to change.

    Attributes:
        about: Its subject, such as "training of churn".
        do: The setting or declaration to make.
        why: A sentence with the measured figures that decide.
        saves: Hours a day, of `unit`; 0 if it saves memory or improves answers.
        price: Price of these hours a day on demand; None if the settings have no price.
    """

    about: str
    do: str
    why: str
    saves: float = 0.0
    unit: str = ""
    price: float | None = None


def saving(settings: Settings, about: str, do: str, why: str, hours: float, unit: str, *, priced_by: str) -> Advice:
    """Advice that saves hours of something, with their price if the settings have one under `priced_by`."""
    price = hourly_price(priced_by, settings.prices)
    return Advice(about, do, why, hours, unit, None if price is None else hours * price[0])


def largest_first(advice: Sequence[Advice]) -> list[Advice]:
    return sorted(advice, key=lambda each: (-(each.price or 0.0), -each.saves))
