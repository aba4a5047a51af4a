"""Cost of a training run, and advice on the size of the next one, from what the run used.

The cost is device seconds, seconds wasted through preemption, and the price of both.

The figures come from the run's events and cover all its attempts. An attempt that was killed before its first step left
no event and is not counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from forecache.base.prices import hourly_price


@dataclass(frozen=True)
class CostRecord:
    """The cost of a run over all its attempts.

    Attributes:
        attempts: How often the workers started to train.
        device_s: Seconds of all workers together, from their launch to their end.
        wasted_s: The part of `device_s` spent on restarting and on repeating steps since the last checkpoint.
        steps_repeated: Steps that were run again after a restart.
    """

    attempts: int
    device_s: float
    wasted_s: float
    steps_repeated: int


def cost_record(events: Iterable[Mapping[str, Any]]) -> CostRecord:
    """Compute a run's cost from its events, given in the order in which they were reported."""
    device_s = wasted_s = last_seen = launched_at = 0.0
    attempts = steps_repeated = 0
    start: Mapping[str, Any] | None = None
    saved_at: dict[int, float] = {}
    for event in events:
        if event["event"] == "start":
            if start is not None:
                ended = max(event["alive_at"], last_seen)
                device_s += (ended - launched_at) * start["workers"]
                repeated = max(0, event["reached_step"] - event["step"])
                if repeated:
                    since = saved_at.get(event["step"], start["time"])
                    wasted_s += (ended - since) * start["workers"]
                # Workers that replace killed ones are started by an agent that was launched earlier.
                launched_at = max(event["launched_at"], ended)
                wasted_s += (event["time"] - launched_at) * event["workers"]
                steps_repeated += repeated
            else:
                launched_at = event["launched_at"]
            start, attempts = event, attempts + 1
        elif event["event"] == "checkpoint":
            saved_at[event["step"]] = event["time"]
        last_seen = event["time"]
    if start is not None:
        device_s += (last_seen - launched_at) * start["workers"]
    return CostRecord(attempts, device_s, wasted_s, steps_repeated)


def price_of_run(cost: CostRecord, device_name: str, prices: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Price of a run on spot machines, and on demand, without the seconds that preemption wasted.

    Args:
        prices: (on demand, spot) per device hour, keyed by a part of the device's name; the longest match counts.

    Returns:
        `price_on_demand` and `price_spot` in the prices' currency, `saving` as a share; empty for a device without
        a price.
    """
    price = hourly_price(device_name, prices)
    if price is None:
        return {}
    on_demand, spot = price
    price_on_demand, price_spot = (cost.device_s - cost.wasted_s) / 3600 * on_demand, cost.device_s / 3600 * spot
    saving = 1 - price_spot / price_on_demand if price_on_demand else 0.0
    return {"price_on_demand": price_on_demand, "price_spot": price_spot, "saving": saving}


_STALL_SHARE = 0.15
_LOW_SHARE = 0.5
_MEMORY_MARGIN = 1.25
_MARGIN_BYTES = 1 << 28


def sizing_advice(result: Mapping[str, Any]) -> list[str]:
    """Advice in sentences; the first states how much memory a worker needs.

    Args:
        result: A run's `result.json`, with `usage` as `forecache.plugins.torch.worker.reporting.usage` measured it.
    """
    usage = result["usage"]
    enough = usage["peak_memory_bytes"] * _MEMORY_MARGIN + _MARGIN_BYTES
    peak = _gib(usage["peak_memory_bytes"])
    sentences = [f"A worker used at most {peak} of memory; {_gib(enough)} per worker is enough."]
    if usage["stall_share"] > _STALL_SHARE:
        sentences.append(
            f"Workers waited for data {usage['stall_share']:.0%} of the time: one more core per worker, or a larger "
            "cache, would shorten the run."
        )
    elif "estimator" not in result and result["device"] == "cpu" and usage["cpu_share"] < _LOW_SHARE:
        sentences.append(
            f"The workers' threads were busy {usage['cpu_share']:.0%} of the time and did not wait for data: fewer "
            "workers or a larger batch would cost less."
        )
    if usage["device_memory_bytes"]:
        share = usage["peak_device_memory_bytes"] / usage["device_memory_bytes"]
        if share < _LOW_SHARE:
            sentences.append(
                f"The run used {share:.0%} of the memory of {result['device_name']}: a smaller device is enough, or "
                "a larger batch would use it."
            )
    return sentences


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"
