"""Requests in each second of a day: from a request log, a file, or a built-in shape."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from forecache.base.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from forecache.base.settings import Settings

DAY_S = 86_400
_LOG_STEP_S = 10
"""Requests of a log are counted over this many seconds: with a sample of keys, single seconds would say little."""
_BY_HOUR = (
    0.30, 0.22, 0.16, 0.13, 0.12, 0.14, 0.22, 0.36, 0.50, 0.58, 0.62, 0.65, 0.68, 0.66, 0.64, 0.65, 0.70, 0.78, 0.88,
    0.97, 1.00, 0.93, 0.72, 0.48,
)  # fmt: skip
"""The built-in day: shares of its busiest hour. An assumption to try policies with; use a log for real traffic."""
_COLUMNS = ("seconds", "requests_per_second")


@dataclass(frozen=True)
class Demand:
    """Requests by second."""

    rates: np.ndarray  # float64 [seconds], requests a second
    source: str  # description of their origin, for people

    @property
    def requests(self) -> float:
        return float(self.rates.sum())


def built_in_demand(
    peak: float, *, bursts: Sequence[tuple[float, float, float]] = ((10.0, 5, 1.5), (14.5, 5, 2.0))
) -> Demand:
    """A day of a shop: quiet at night, busiest at 20:00, with bursts on top.

    Args:
        peak: Requests a second at 20:00.
        bursts: Hour of the day, minutes, and factor on the demand of that hour, such as after a mail campaign.
    """
    hours = np.arange(DAY_S) / 3600
    rates = peak * np.interp(hours, np.arange(25), np.array([*_BY_HOUR, _BY_HOUR[0]]))
    for hour, minutes, times in bursts:
        first = int(hour * 3600)
        rates[first : first + int(minutes * 60)] *= times
    return Demand(rates, f"built-in day, {peak:,.0f} requests/s at 20:00, {len(bursts)} bursts")


def constant_demand(rate: float, seconds: int) -> Demand:
    return Demand(np.full(seconds, float(rate)), f"{rate:,.0f} requests/s")


def demand_from_csv(file: Path) -> Demand:
    """A day from a CSV file with the columns `seconds`, ascending, and `requests_per_second`, each until the next."""
    with open(file, newline="") as lines:
        rows = csv.DictReader(lines)
        if not set(_COLUMNS) <= set(rows.fieldnames or ()):
            raise InputError(
                f"{file} has the columns {', '.join(rows.fieldnames or ['none'])}.",
                remedy=f"Write a heading line with {' and '.join(_COLUMNS)}.",
            )
        found: list[tuple[float, float]] = []
        for row in rows:
            try:
                second, rate = (float(row[name]) for name in _COLUMNS)
            except (TypeError, ValueError):
                second, rate = np.nan, np.nan
            if not (second >= 0 and 0 <= rate < np.inf and (not found or second > found[-1][0])):
                raise InputError(
                    f"{file}, line {rows.line_num}: {', '.join(str(row[name]) for name in _COLUMNS)}.",
                    remedy="Give numbers of 0 or more, the seconds in ascending order.",
                )
            found.append((second, rate))
    if len(found) < 2:
        raise InputError(f"{file} has {len(found)} lines of demand.", remedy="Give two or more; the last one ends it.")
    starts, rates = np.array(found).T
    seconds = np.arange(int(starts[0]), int(starts[-1]))
    return Demand(rates[np.searchsorted(starts, seconds, side="right") - 1], str(file))


def demand_from_log(settings: "Settings", name: str, *, day: date | None = None, sample: float = 1.0) -> Demand:
    """The requests of a real-time model on a day, counted in its log and divided by the sample.

    Args:
        day: In UTC; None: the newest whole day, or the newest if there is no whole one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from forecache.kit.delta.log import active_files
    from forecache.kit.delta.tables import open_table
    from forecache.realtime.log.read import newest_day, read_log
    from forecache.realtime.log.record import table_of

    chosen = day or newest_day(active_files(open_table(settings, table_of(name))))
    counts, logged = np.zeros(DAY_S // _LOG_STEP_S), 0
    for batch in read_log(settings, name, days=[chosen] if chosen else [], columns=["arrived_at", "variant"]):
        # Answers of the variant "shadow" were computed beside others and not sent.
        sent = batch.filter(pc.not_equal(batch.column("variant"), "shadow"))
        seconds = sent.column("arrived_at").cast(pa.int64()).to_numpy(zero_copy_only=False) // 1_000_000 % DAY_S
        counts += np.bincount(seconds // _LOG_STEP_S, minlength=len(counts))
        logged += batch.num_rows
    if not logged:
        raise NotFoundError(
            f"The request log of {name!r} has no requests{f' of {day}' if day else ''}.",
            remedy="Give --file or --peak.",
        )
    return Demand(np.repeat(counts / _LOG_STEP_S / sample, _LOG_STEP_S), f"request log of {name}, {chosen}")


def measure_service_s(settings: "Settings", name: str) -> float:
    """Mean seconds that a worker took for an answer of a real-time model, over its request log."""
    from forecache.realtime.log.read import read_log

    microseconds, count = 0.0, 0
    for batch in read_log(settings, name, columns=["total_us", "wait_us"]):
        total, wait = (
            batch.column(each).to_numpy(zero_copy_only=False).astype(float) for each in ("total_us", "wait_us")
        )
        microseconds += float((total - wait).sum())
        count += batch.num_rows
    if not count:
        raise NotFoundError(f"The request log of {name!r} is empty.", remedy="Give --capacity.")
    return microseconds / count / 1e6
