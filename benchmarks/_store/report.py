"""The table of every server under load, what has to be said beside the figures, and the plot."""

from pathlib import Path
from typing import Any

from _common.rows import Value, number, with_spread

from _store import servers, summary

SECTIONS = {
    "http-one": "one key a request, 16 connections, closed loop",
    "http-many": "100 keys a request, 4 connections, closed loop",
    "open": "one key a request at a constant rate, open loop",
    "publish": "publishing",
    "in-process": "reads in process",
    "look-ups": "features of 50 keys to a matrix, in process",
    "swap": "publishes under load",
}
SURFACE_HEADS = ["Server", "Better setting", "Requests/s", "p50 [ms]", "p99 [ms]", "Body", "Answer", "Failed"]
_OURS, _PEER, _FAINT = "#1f5f8b", "#9aa5ad", "#d7dde1"


def surface_lines(passes: list[dict[str, Any]]) -> list[list[str]]:
    """Every server that was put under load, with the bytes of its answers."""
    return [
        [
            each.name,
            each.setting,
            with_spread(each.requests_per_s),
            with_spread(each.p50_ms),
            with_spread(each.p99_ms),
            f"{each.body_bytes:,.0f}",
            f"{each.answer_bytes:,.0f}",
            str(each.failed),
        ]
        for each in summary.surfaces(passes).values()
    ]


def plot(sections: dict[str, Any], path: Path) -> None:
    """One panel for each of some sections, of those that were measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    painters = [
        ("http-one", "Answers: one key a request, 16 connections", _rates),
        ("http-many", "Answers: 100 keys a request, 4 connections", _rates),
        ("in-process", "Reads in process", _latencies),
        ("swap", "Publishes while the reader is under load", _swap),
    ]
    present = [item for item in painters if item[0] in sections]
    if not present:
        return
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    columns = min(2, len(present))
    num_rows = -(-len(present) // columns)
    figure, axes = pyplot.subplots(num_rows, columns, figsize=(7.5 * columns, 4.5 * num_rows), squeeze=False)
    for axis, (section, title, paint) in zip(axes.flat, present, strict=False):
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
        paint(axis, sections[section]["passes"])
    for axis in list(axes.flat)[len(present) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(axis: Any, bars: list[tuple[str, Value, str, bool]]) -> None:
    """Horizontal bars from the top down: (name, value, text beside it, whether it is ours)."""
    for place, (_, value, label, ours) in enumerate(bars[::-1]):
        axis.barh(place, value.median, color=_OURS if ours else _PEER, height=0.65)
        axis.plot([value.low, value.high], [place, place], color="black", linewidth=1)
        axis.text(value.high, place, f"  {label}", va="center", fontsize=8)
    axis.set_yticks(range(len(bars)), [name for name, *_ in bars[::-1]])


def _rates(axis: Any, passes: list[dict[str, Any]]) -> None:
    found = list(summary.surfaces(passes).values())
    bars = [
        (each.name, each.requests_per_s, f"{each.requests_per_s.median:,.0f}/s", each.name in servers.MINE)
        for each in found
    ]
    _bars(axis, bars)
    axis.set_xscale("log")
    axis.set_xlim(10, max(each.requests_per_s.high for each in found) * 10)
    axis.set_xlabel("requests per second (log scale; line: range of samples)")


def _latencies(axis: Any, passes: list[dict[str, Any]]) -> None:
    for kind, style in (("forecache", "-"), ("with deltas", "--")):
        drawn = [each[kind] for each in passes if each.get(kind)]
        for place, found in enumerate(drawn):
            shares, taken = found["curve"]
            label = f"{found['keys']:,} keys, {found['segments']} segment(s)" if place == 0 else None
            microseconds = [value / 1e3 for value in taken]
            axis.plot(microseconds, shares, color=_OURS, linestyle=style, linewidth=1.3, label=label)
    axis.set_xscale("log")
    axis.set_xlabel("microseconds of a get, clock included (log scale)")
    axis.set_ylabel("share of gets")
    axis.legend(frameon=False, fontsize=8)


def _swap(axis: Any, passes: list[dict[str, Any]]) -> None:
    names = ["before", "during", "after"]
    width = 0.8 / len(passes)
    for place_of_pass, each in enumerate(passes):
        for place, name in enumerate(names):
            value = each[name]["p99_ms"]
            left = place + (place_of_pass - (len(passes) - 1) / 2) * width
            axis.bar(left, value, width=width * 0.9, color=_OURS if name == "during" else _FAINT)
            axis.text(left, value, number(value), ha="center", va="bottom", fontsize=8)
    count = len(passes[0]["publishes"])
    axis.set_xticks(range(len(names)), ["without publishes", f"with {count} publishes", "without publishes"])
    axis.set_ylabel("p99 latency [ms]")
    axis.set_xlabel("16 connections, one worker; one bar a pass")
