"""The page that `make demo-stream` ends with: one file, with delay and lag of the day as plots."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cards.demo.watch import Seen
from forecache.testing import ACCENT, MUTED, SECOND, make_page, render_svg, write_page

TEMPLATE = Path(__file__).with_name("day.html.j2")
_DAY_H = 24


@dataclass(frozen=True)
class Plotted:
    """What the plots show, over the hours of the streamed day.

    Attributes:
        delay_ms: (hours, milliseconds) of each payment that was waited for.
        lag: (hours, messages) as often as it was looked at.
        rate: (hours, messages a second) of what was sent.
    """

    delay_ms: tuple[Any, Any]
    lag: tuple[Any, Any]
    rate: tuple[Any, Any]


def plotted(seen: Seen, sent_s: Any, *, speed: float) -> Plotted:
    """
    Args:
        sent_s: When each payment was sent, in seconds since the watch began.
    """
    began = float(sent_s[0])

    def hours(times: Any) -> Any:
        return (np.asarray(times, float) - began) * speed / 3600

    delays, lags = np.array(seen.delays).reshape(-1, 2), np.array(seen.lags, float).reshape(-1, 2)
    edges = np.arange(began, sent_s[-1] + 1)
    counts, _ = np.histogram(sent_s, edges) if len(edges) > 1 else (np.empty(0), None)
    return Plotted(
        (hours(delays[:, 0]), delays[:, 1] * 1000), (hours(lags[:, 0]), lags[:, 1]), (hours(edges[:-1]), counts)
    )


def write_day_page(path: Path, shown: Plotted, values: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
        values: What the template names, without the plots.
    """
    plots = {
        "delay": render_svg("delay", _draw_delay, shown, standalone=False),
        "lag": render_svg("lag", _draw_lag, shown, standalone=False),
    }
    write_page(path, make_page(TEMPLATE, plots=plots, **values))


def _draw_delay(axes: Any, shown: Plotted) -> None:
    hours, milliseconds = shown.delay_ms
    axes.scatter(hours, milliseconds, s=7, color=ACCENT, linewidths=0, alpha=0.7)
    if len(milliseconds):
        for share, name, colour in ((50, "median", MUTED), (99, "99th percentile", SECOND)):
            value = float(np.percentile(milliseconds, share))
            axes.axhline(value, color=colour, linewidth=0.9, linestyle=(0, (4, 3)), label=f"{name} {value:,.0f} ms")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="hour of the day, UTC", ylabel="milliseconds", xlim=(0, _DAY_H))
    _hours(axes)


def _draw_lag(axes: Any, shown: Plotted) -> None:
    axes.step(*shown.rate, where="post", color=MUTED, linewidth=0.9, label="payments a second")
    axes.plot(*shown.lag, color=ACCENT, label="not committed")
    axes.set(xlabel="hour of the day, UTC", ylabel="payments", xlim=(0, _DAY_H))
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    _hours(axes)


def _hours(axes: Any) -> None:
    axes.set_xticks(range(0, _DAY_H + 1, 4), [f"{hour:02d}:00" for hour in range(0, _DAY_H + 1, 4)])
