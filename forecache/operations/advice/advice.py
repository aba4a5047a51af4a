"""One piece of advice with what it saves, and the order in which advice is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from forecache.lake.costs import hourly_price
from forecache.settings import Settings


@dataclass(frozen=True)
class Advice:
    """Something to set differently.

    Attributes:
        about: What it is about, such as "training of churn".
        do: What to set or declare.
        why: A sentence with the measured figures that decide.
        saves: Hours a day, of `unit`; 0 where it saves memory or makes answers better.
        price: What these cost a day on demand; None where there is no price.
    """

    about: str
    do: str
    why: str
    saves: float = 0.0
    unit: str = ""
    price: float | None = None


def saving(settings: Settings, about: str, do: str, why: str, hours: float, unit: str, *, priced_by: str) -> Advice:
    """Advice that saves hours of something, with their price where the settings have one under `priced_by`."""
    price = hourly_price(priced_by, settings.prices)
    return Advice(about, do, why, hours, unit, None if price is None else hours * price[0])


def largest_first(advice: Sequence[Advice]) -> list[Advice]:
    return sorted(advice, key=lambda each: (-(each.price or 0.0), -each.saves))
