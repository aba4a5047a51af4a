"""How long a reader takes to put new versions in place, and how long requests took meanwhile."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVING = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) .* Serving spending version \d+, ready after (\d+\.\d+) s\.$", re.M
)
_INSTALLED_S = 0.005
"""After a version is ready, in which the event loop takes it over."""
_BESIDE_S = (-2.0, -1.0, 1.0, 2.0)
"""Where no version is put in place, requests are looked at as long, so much before and after."""


@dataclass(frozen=True)
class Swap:
    """A version that was opened and warmed beside the requests; seconds since 1970."""

    began: float
    ready: float


def read_swaps(log: Path, since: float) -> list[Swap]:
    """The versions that a reader has put in place after a moment, from its log."""
    found = []
    for second, thousandths, took_s in _SERVING.findall(log.read_text()):
        ready = time.mktime(time.strptime(second, "%Y-%m-%d %H:%M:%S")) + int(thousandths) / 1e3
        if ready - float(took_s) > since:
            found.append(Swap(ready - float(took_s), ready))
    return found


def figures(swaps: Sequence[Swap], spans: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """What swaps took, and the requests that were under way during each.

    Args:
        spans: From when to when each request took.

    Returns:
        swap_ms: Of each swap.
        held_ms: Of each swap that met requests, the longest of these.
        beside_ms: The longest of the requests at each of the moments beside, when no version was put in place.
    """
    windows = [(swap.began, swap.ready + _INSTALLED_S) for swap in swaps]
    moved = [(began + by, ended + by) for began, ended in windows for by in _BESIDE_S]
    quiet = [window for window in moved if not any(_meet(window, each) for each in windows)]
    return {
        "swap_ms": [(swap.ready - swap.began) * 1e3 for swap in swaps],
        "held_ms": _longest_ms(windows, spans),
        "beside_ms": _longest_ms(quiet, spans),
    }


def _longest_ms(windows: Sequence[tuple[float, float]], spans: Sequence[tuple[float, float]]) -> list[float]:
    found = ([span for span in spans if _meet(span, window)] for window in windows)
    return [max(ended - began for began, ended in met) * 1e3 for met in found if met]


def _meet(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]
