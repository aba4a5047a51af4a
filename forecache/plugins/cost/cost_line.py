"""Lines of the cost table, priced by the settings."""

from dataclasses import dataclass
from typing import Literal, get_args

from forecache.base.prices import STORAGE, hourly_price
from forecache.base.settings import Settings

Part = Literal["stage", "training", "streams", "storage", "replicas"]
PARTS: tuple[Part, ...] = get_args(Part)
DAYS_OF_A_MONTH = 365.25 / 12


@dataclass(frozen=True)
class CostLine:
    """Amount and cost of one thing a day.

    Attributes:
        subject: A pipeline, source, view, recommender or stream; "" if all share it.
        what: The stage, or the place of storage.
        amount: In `unit`, a day.
        basis: Origin of the amount: "measured" (of a stream with the duration), "held" (the stage's time on all
            cores), or the source of the number of readers.
        price, price_spot: A day, on demand and on spot machines; None if the settings have no price.
        wasted: The part of `amount` that preemptions wasted.
        priced_by: Name of the price in the settings.
    """

    part: Part
    subject: str
    what: str
    amount: float
    unit: str
    basis: str
    priced_by: str
    price: float | None = None
    price_spot: float | None = None
    wasted: float = 0.0


def hourly_line(
    settings: Settings, part: Part, subject: str, what: str, hours: float, unit: str, *, priced_by: str, basis: str
) -> CostLine:
    """The line of a thing that is paid by the hour."""
    price = hourly_price(priced_by, settings.prices)
    on_demand, spot = (hours * each for each in price) if price else (None, None)
    return CostLine(part, subject, what, hours, unit, basis, priced_by, on_demand, spot)


def storage_line(settings: Settings, subject: str, what: str, num_bytes: int, *, in_object_store: bool) -> CostLine:
    """The line of stored bytes, by the price of a GB for a month."""
    price = settings.prices.get(STORAGE)
    gigabytes = num_bytes / 1e9
    a_day = None if price is None else gigabytes * price[in_object_store] / DAYS_OF_A_MONTH
    return CostLine("storage", subject, what, gigabytes, "GB", "measured", STORAGE, a_day, a_day)
