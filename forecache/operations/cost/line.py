"""A line of the cost table, and how prices of the settings apply."""

from dataclasses import dataclass
from typing import Literal, get_args

from forecache.lake.costs import STORAGE, hourly_price
from forecache.settings import Settings

Part = Literal["stage", "training", "streams", "storage", "replicas"]
PARTS: tuple[Part, ...] = get_args(Part)
DAYS_OF_A_MONTH = 365.25 / 12


@dataclass(frozen=True)
class Line:
    """What one thing takes and costs a day.

    Attributes:
        subject: A pipeline, source, view, recommender or stream; "" for what all share.
        what: The stage, or the place.
        amount: In `unit`, a day.
        basis: Where the amount comes from: "measured", of a stream with for how long; "held", which is the stage's time
            on all cores; or who says how many readers there are.
        price, price_spot: A day, on demand and on spot machines; None where the settings have no price.
        wasted: The part of `amount` that preemptions wasted.
        priced_by: The name under which the settings hold the price.
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


def by_the_hour(
    settings: Settings, part: Part, subject: str, what: str, hours: float, unit: str, *, priced_by: str, basis: str
) -> Line:
    """A line of something that is paid by the hour."""
    price = hourly_price(priced_by, settings.prices)
    on_demand, spot = (hours * each for each in price) if price else (None, None)
    return Line(part, subject, what, hours, unit, basis, priced_by, on_demand, spot)


def stored(settings: Settings, subject: str, what: str, num_bytes: int, *, in_object_store: bool) -> Line:
    """A line of bytes that lie somewhere: the price of a GB for a month, by the day."""
    price = settings.prices.get(STORAGE)
    gigabytes = num_bytes / 1e9
    a_day = None if price is None else gigabytes * price[in_object_store] / DAYS_OF_A_MONTH
    return Line("storage", subject, what, gigabytes, "GB", "measured", STORAGE, a_day, a_day)
