"""Advice on trainings: their workers, spot machines, the size of the device."""

import math
from collections.abc import Iterable

from forecache.lake.costs import hourly_price
from forecache.lake.ledger import StageRecord
from forecache.operations.advice.advice import Advice, saving
from forecache.settings import Settings

_BUSY = 0.8
"""Share of the time for which workers may be busy without fewer of them being slower."""
_SMALL_MEMORY = 0.5


def training_advice(settings: Settings, records: Iterable[StageRecord], days: float) -> list[Advice]:
    """Advice from the newest training of each pipeline, and the device seconds of all trainings of the period."""
    newest: dict[str, StageRecord] = {}
    device_s: dict[str, float] = {}
    wasted_s: dict[str, float] = {}
    for record in records:
        cost = record.details.get("cost")
        if record.stage == "train" and cost and "usage" in record.details:
            newest[record.subject] = record
            device_s[record.subject] = device_s.get(record.subject, 0.0) + cost["device_s"]
            wasted_s[record.subject] = wasted_s.get(record.subject, 0.0) + cost["wasted_s"]
    found: list[Advice | None] = []
    for subject, record in newest.items():
        hours, wasted = device_s[subject] / 3600 / days, wasted_s[subject] / 3600 / days
        found += [
            _workers(settings, record, hours), _spot(settings, record, hours, wasted), _device(record),
        ]  # fmt: skip
    return [each for each in found if each is not None]


def _workers(settings: Settings, record: StageRecord, hours: float) -> Advice | None:
    details, usage = record.details, record.details["usage"]
    workers, busy = details["workers"], usage["cpu_share"]
    if details["device"] != "cpu" or workers < 2:
        return None
    if usage["stall_share"] > 1 - _BUSY:
        return Advice(
            f"training of {record.subject}", "a larger cache, or another core a worker",
            f"Its {workers} workers waited for data {usage['stall_share']:.0%} of the time.",
        )  # fmt: skip
    fewer = max(1, math.ceil(workers * busy / _BUSY))
    if fewer >= workers:
        return None
    why = (
        f"Its {workers} workers' threads were busy {busy:.0%} of the time and waited for data "
        f"{usage['stall_share']:.0%}: {fewer} would be busy {busy * workers / fewer:.0%}. Up to this saving, if it "
        "takes no longer."
    )
    return saving(
        settings, f"training of {record.subject}", f"FORECACHE_TRAINING_WORKERS={fewer}", why,
        hours * (1 - fewer / workers), "device-hours", priced_by=details["device_name"],
    )  # fmt: skip


def _spot(settings: Settings, record: StageRecord, hours: float, wasted: float) -> Advice | None:
    price = hourly_price(record.details["device_name"], settings.prices)
    if price is None or not hours:
        return None
    on_demand, spot = (hours - wasted) * price[0], hours * price[1]
    share = wasted / hours
    figures = (
        f"{hours:.3g} device-hours a day, {share:.1%} of them wasted by preemption: {spot:,.3g} on spot machines, "
        f"{on_demand:,.3g} on demand."
    )
    do = "spot machines" if spot < on_demand else "machines on demand"
    # The frequency of preemptions is only known for runs on spot machines.
    caution = "" if wasted or spot >= on_demand else " None was preempted, so what spot machines waste is not measured."
    return Advice(
        f"training of {record.subject}", do, figures + caution, 0.0, "", abs(on_demand - spot)
    )  # fmt: skip


def _device(record: StageRecord) -> Advice | None:
    usage = record.details["usage"]
    whole, peak = usage["device_memory_bytes"], usage["peak_device_memory_bytes"]
    if not whole or peak / whole >= _SMALL_MEMORY:
        return None
    name = record.details["device_name"]
    why = f"It used {peak / whole:.0%} of the {whole / 2**30:.0f} GiB of {name}."
    return Advice(f"training of {record.subject}", "a smaller device, or a larger batch", why)
