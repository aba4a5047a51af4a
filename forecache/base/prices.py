"""Prices of core hours and device hours, from the price table in the settings, and the cost of a stage's core time."""

from collections.abc import Mapping

from forecache.base.settings import Settings

CPU, REPLICA, STORAGE = "cpu", "replica", "storage"
"""Names of prices: of a core-hour, of a reader's hour, and of a GB for a month."""


def hourly_price(device_name: str, prices: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
    """(on demand, spot) of a device-hour, or of a core-hour for "cpu": of the longest name that `device_name` contains.

    None if there is none.
    """
    fitting = [name for name in prices if name.lower() in device_name.lower()]
    return prices[max(fitting, key=len)] if fitting else None


def core_cost(settings: Settings, core_s: float) -> dict[str, float]:
    """`core_s`, and if a core-hour has a price, `price_on_demand` and `price_spot` in the currency of the prices."""
    price = hourly_price(CPU, settings.prices)
    if price is None:
        return {"core_s": round(core_s, 6)}
    on_demand, spot = (core_s / 3600 * hour for hour in price)
    return {"core_s": round(core_s, 6), "price_on_demand": on_demand, "price_spot": spot}
