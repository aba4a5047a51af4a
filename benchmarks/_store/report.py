"""The printed table and the plot."""

from pathlib import Path
from typing import Any

from _store import servers, summary
from _store.summary import Row, Value

SECTIONS = {
    "http-one": "one key a request, 16 connections",
    "http-many": "100 keys a request, 4 connections",
    "publish": "publishing",
    "in-process": "reads in process",
    "swap": "publishes under load",
}
BUSY = 0.1
"""Share of the machine that others may use before the report says that it was not quiet."""

_OURS, _PEER, _FAINT = "#1f5f8b", "#9aa5ad", "#d7dde1"


def number(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2
    return f"{value:,.{digits}f}"


def with_spread(value: Value | None) -> str:
    if value is None:
        return ""
    if value.low == value.high:
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)} to {number(value.high)})"


def surface_lines(section: str, passes: list[dict[str, Any]]) -> list[list[str]]:
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


def row_line(row: Row) -> list[str]:
    verdict = "" if row.met is None else "met" if row.met else "MISSED"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} x" if row.ratio < 100 else f"{row.ratio:,.0f} x"
    figure = f"{row.figure} [{row.unit}]" if row.unit else row.figure
    return [figure, with_spread(row.ours), row.peer, with_spread(row.theirs), ratio, row.floor, verdict]


def text_table(headings: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in [headings, *lines]) for column in range(len(headings))]

    def render(line: list[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()

    return "\n".join([render(headings), "  ".join("-" * width for width in widths), *map(render, lines)])


def warnings(sections: dict[str, Any]) -> list[str]:
    """What a reader of the figures has to know: small sizes, a machine that was not quiet, failed requests."""
    found = []
    small = [name for name, each in sections.items() if each["size"] != "full"]
    if small:
        found.append(f"Measured at small sizes, to try the benchmark; the figures mean nothing: {', '.join(small)}.")
    for name, each in sections.items():
        busy = max(one["machine"]["busy_share"] for one in each["passes"])
        if busy > BUSY:
            found.append(f"The machine was not quiet before {name}: others used {busy:.0%} of it.")
        if name.startswith("http-"):
            failed = {item.name: item.failed for item in summary.surfaces(each["passes"]).values() if item.failed}
            found += [f"{count} requests of {name} failed at {server}." for server, count in failed.items()]
    return found


def text(sections: dict[str, Any]) -> str:
    """Every measured section as tables; medians, with the smallest and largest sample in brackets."""
    parts = []
    for section, title in SECTIONS.items():
        if section not in sections:
            continue
        passes = sections[section]["passes"]
        count = f"{len(passes)} pass{'es' if len(passes) > 1 else ''}"
        parts.append(f"\n{section}: {title} ({count})\n")
        if section.startswith("http-"):
            headings = ["server", "better setting", "requests/s", "p50 [ms]", "p99 [ms]", "body", "answer", "failed"]
            parts.append(text_table(headings, surface_lines(section, passes)) + "\n")
        lines = [row_line(row) for row in summary.rows_of(section, passes)]
        parts.append(text_table(["figure", "Forecache", "peer", "peer's", "ratio", "floor", ""], lines))
    parts += ["", *warnings(sections)]
    return "\n".join(parts)


def plot(sections: dict[str, Any], path: Path) -> None:
    """One or two panels a section, of those that were measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    painters = [
        ("http-one", "Answers: one key a request, 16 connections", _rates),
        ("http-many", "Answers: 100 keys a request, 4 connections", _rates),
        ("publish", "Publishing: rows a second", _publish_rates),
        ("publish", "Publishing: seconds", _publish_seconds),
        ("in-process", "Reads in process", _latencies),
        ("swap", "Publishes while the reader is under load", _swap),
    ]
    present = [item for item in painters if item[0] in sections]
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    columns = min(2, len(present))
    num_rows = -(-len(present) // columns)
    figure, axes = pyplot.subplots(num_rows, columns, figsize=(6.6 * columns, 3.2 * num_rows), squeeze=False)
    for axis, (section, title, paint) in zip(axes.flat, present, strict=False):
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
        paint(axis, sections[section]["passes"])
    for axis in list(axes.flat)[len(present) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
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
    mine = (servers.OURS, servers.OURS_FEAST)
    _bars(
        axis,
        [
            (
                each.name,
                each.requests_per_s,
                f"{each.requests_per_s.median:,.0f}/s, p99 {number(each.p99_ms.median)} ms",
                each.name in mine,
            )
            for each in found
        ],
    )
    axis.set_xscale("log")
    axis.set_xlim(10, max(each.requests_per_s.high for each in found) * 30)
    axis.set_xlabel("requests per second, one worker (log scale; line: range of samples)")


def _latencies(axis: Any, passes: list[dict[str, Any]]) -> None:
    for kind, style in (("forecache", "-"), ("with deltas", "--")):
        drawn = [each[kind] for each in passes if each.get(kind)]
        for place, found in enumerate(drawn):
            shares, taken = found["curve"]
            label = f"{found['keys']:,} keys, {found['segments']} segment(s)" if place == 0 else None
            microseconds = [value / 1e3 for value in taken]
            axis.plot(microseconds, shares, color=_OURS, linestyle=style, linewidth=1.3, label=label)
    axis.set_xscale("log")
    for limit, share in ((2, 0.5), (10, 0.99)):
        axis.plot([limit], [share], marker="<", color="black", markersize=5)
    axis.set_xlabel("microseconds of a get, clock included (log scale; marks: floors at p50 and p99)")
    axis.set_ylabel("share of gets")
    axis.legend(frameon=False, fontsize=8)


def _publish_rates(axis: Any, passes: list[dict[str, Any]]) -> None:
    ours = Value.of(each["keys"] / each["full"]["seconds"] for each in passes)
    bars = [("Forecache,\nfull publish, verified", ours, f"{ours.median:,.0f}/s", True)]
    for name in passes[0]["feast"]:
        theirs = Value.of(each["feast"][name]["rows_per_s"] for each in passes)
        bars.append((f"feast materialize, Redis,\n{name}", theirs, f"{theirs.median:,.0f}/s", False))
    _bars(axis, bars)
    axis.set_xscale("log")
    axis.set_xlim(1000, ours.high * 10)
    feast_rows = next(iter(passes[0]["feast"].values()))["rows"]
    axis.set_xlabel(f"log scale; {passes[0]['keys']:,} rows here, {feast_rows:,} by Feast")


def _publish_seconds(axis: Any, passes: list[dict[str, Any]]) -> None:
    kinds = {"full": "full publish", "new night": "a new night,\n1 % of it differs", "rescored": "1 % scored again"}
    values = {kind: Value.of(each[kind]["seconds"] for each in passes) for kind in kinds}
    _bars(axis, [(kinds[kind], value, f"{number(value.median)} s", True) for kind, value in values.items()])
    axis.set_xlim(0, max(value.high for value in values.values()) * 1.2)
    axis.set_xlabel(f"seconds for {passes[0]['keys']:,} keys")


def _swap(axis: Any, passes: list[dict[str, Any]]) -> None:
    names = ["before", "during", "after"]
    width = 0.8 / len(passes)
    for number_, each in enumerate(passes):
        for place, name in enumerate(names):
            value = each[name]["p99_ms"]
            left = place + (number_ - (len(passes) - 1) / 2) * width
            axis.bar(left, value, width=width * 0.9, color=_OURS if name == "during" else _FAINT)
            axis.text(left, value, number(value), ha="center", va="bottom", fontsize=8)
    count = len(passes[0]["publishes"])
    axis.set_xticks(range(len(names)), ["without publishes", f"with {count} publishes", "without publishes"])
    failed = sum(each["during"]["failed"] for each in passes)
    axis.set_ylabel("p99 latency [ms]")
    axis.set_xlabel(f"16 connections, one worker; one bar a pass; failed requests: {failed}")
