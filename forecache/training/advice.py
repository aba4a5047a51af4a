"""Advice on the size of the next training run, from what the last one used."""

from collections.abc import Mapping
from typing import Any

_STALL_SHARE = 0.15
_LOW_SHARE = 0.5
_MEMORY_MARGIN = 1.25
_MARGIN_BYTES = 1 << 28


def advice(result: Mapping[str, Any]) -> list[str]:
    """Advice in sentences; the first states how much memory a worker needs.

    Args:
        result: A run's `result.json`, with `usage` as `forecache.training.worker.reporting.usage` measured it.
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
