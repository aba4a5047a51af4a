"""Charts as SVG. Sizes are attributes and colours are classes, as the page's policy allows no styles in elements."""

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

from forecache.kit import format_text as words
from forecache.kit.metrics.page import merge_first_buckets
from forecache.plugins.status.history import LENGTH, STEP_S
from forecache.plugins.status.page.markup import Content, Markup, section, tag

WIDTH, HEIGHT = 600, 120
_ROUND = (1, 2, 5, 10)
_FIRST_BUCKET = 4
"""Durations below 16 us are one bar."""


def round_up(value: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** floor(log10(value))
    return next((step * power for step in _ROUND if value <= step * power * (1 + 1e-9)), 10 * power)


def time_chart(
    at_s: Sequence[float],
    lines: Sequence[tuple[str, Sequence[float]]],
    *,
    now: float,
    span_s: float,
    top: float,
    label: str,
    gaps: bool = False,
) -> Markup:
    """Lines over the time up to `now`: class and values of each; one of the class `area` is filled below.

    With `gaps`, a line is interrupted at values of 0.
    """
    xs = [round((at - now + span_s) / span_s * WIDTH, 1) for at in at_s]
    shapes = [tag("line", x1=0, x2=WIDTH, y1=y, y2=y, class_="grid") for y in (1, HEIGHT / 2, HEIGHT - 1)]
    for name, values in lines:
        for run in _runs(xs, values, gaps=gaps):
            points = [f"{x:g},{round(HEIGHT - 1 - min(value / top, 1) * (HEIGHT - 4), 1):g}" for x, value in run]
            if name == "area":
                area = f"{run[0][0]:g},{HEIGHT} {' '.join(points)} {run[-1][0]:g},{HEIGHT}"
                shapes.append(tag("polygon", points=area, class_="fill"))
            shapes.append(tag("polyline", points=" ".join(points), class_=f"curve {name}"))
    return _svg(f"0 0 {WIDTH} {HEIGHT}", shapes, "chart", label)


def _svg(box: str, content: Content, name: str, label: str) -> Markup:
    return tag("svg", content, viewBox=box, preserveAspectRatio="none", role="img", aria_label=label, class_=name)


def _runs(xs: Sequence[float], values: Sequence[float], *, gaps: bool) -> list[list[tuple[float, float]]]:
    """Runs of points to join; at a gap a new run begins."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, value in zip(xs, values, strict=True):
        if x >= 0 and gaps and not value:
            runs.append([])
        elif x >= 0:
            runs[-1].append((x, value))
    return [run for run in runs if run]


def sparkline(values: Sequence[float], *, label: str) -> Markup:
    most, last = max(values, default=0.0) or 1.0, max(len(values) - 1, 1)
    points = " ".join(f"{place / last * 100:.1f},{23 - value / most * 21:.1f}" for place, value in enumerate(values))
    return _svg("0 0 100 24", tag("polyline", points=points, class_="curve"), "spark", label)


def average_every(values: Sequence[float], every: int) -> list[float]:
    """Means of `every` values each, the newest last."""
    start = len(values) % every
    return [sum(values[place : place + every]) / every for place in range(start, len(values), every)]


def histogram(buckets: Sequence[int], marks: Sequence[tuple[str, float | None]]) -> tuple[Markup, str, str]:
    """Bars of a histogram whose bucket i counts less than 2**i microseconds, and the durations at its two edges."""
    counts = merge_first_buckets(_FIRST_BUCKET, buckets)
    used = [place for place, number in enumerate(counts) if number]
    first, last = max(0, used[0] - 1), min(len(counts) - 1, max(used[-1] + 1, used[0] + 7))
    shown, most = counts[first : last + 1], max(counts)
    wide = WIDTH / len(shown)
    bars = []
    for place, number in enumerate(shown):
        high = round(max(number / most * (HEIGHT - 4), 1.5), 1) if number else 0
        x, y = round(place * wide + 1, 1), round(HEIGHT - high, 1)
        bars += [tag("rect", x=x, y=y, width=round(wide - 2, 1), height=high, class_="bar")] if number else []
    low = 0.0 if first == 0 else 2.0 ** (first + _FIRST_BUCKET - 1)
    top = 2.0 ** (last + _FIRST_BUCKET)
    told = ", ".join(f"{name} {words.microseconds(value)}" for name, value in marks)
    grid = tag("line", x1=0, x2=WIDTH, y1=HEIGHT - 1, y2=HEIGHT - 1, class_="grid")
    chart = _svg(f"0 0 {WIDTH} {HEIGHT}", [grid, *bars], "chart", f"Distribution of latencies: {told}")
    return chart, words.microseconds(low), words.microseconds(top)


def share_bar(parts: Sequence[tuple[str, float]], *, label: str) -> Markup:
    """A bar that is divided by shares; the class of each part is given."""
    total = sum(value for _, value in parts) or 1.0
    at, shapes = 0.0, []
    for name, value in parts:
        wide = value / total * 100
        shapes.append(tag("rect", x=round(at, 2), y=0, width=round(wide, 2), height=10, class_=name))
        at += wide
    return _svg("0 0 100 10", shapes, "shares", label)


_MOST_S, _LEAST_S = LENGTH * STEP_S, 60
_POINTS = 150
"""Most points of a line."""
_RATES, _LATENCIES = ("per_s", "failed_per_s"), ("p50_us", "p99_us")


def traffic_section(traffic: Mapping[str, Any], *, now: float) -> Markup:
    series = _thin_out(traffic["series"])
    first = series["at_s"][0] if series["at_s"] else now
    span_s = min(max(now - first, _LEAST_S), _MOST_S)
    over_time = [card(traffic, series, now, span_s) for card in (_requests_card, _latency_card)]
    cards = [*over_time, _distribution_card(traffic)]
    return section("Traffic", "traffic", tag("div", cards, class_="cards"))


def _thin_out(series: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """At most about `_POINTS` of each series by their time: means of rates, the largest of latencies."""
    every = max(1, -(-len(series["at_s"]) // _POINTS))
    starts = [place for place, at in enumerate(series["at_s"]) if not place or int(at) // STEP_S % every == 0]
    ends = [*starts[1:], len(series["at_s"])] if starts else []
    means = {name: [sum(series[name][a:b]) / (b - a) for a, b in zip(starts, ends, strict=True)] for name in _RATES}
    peaks = {name: [max(series[name][a:b]) for a, b in zip(starts, ends, strict=True)] for name in _LATENCIES}
    return {**means, **peaks, "at_s": [series["at_s"][end - 1] for end in ends]}


def _requests_card(
    traffic: Mapping[str, Any], series: Mapping[str, Sequence[float]], now: float, span_s: float
) -> Markup:
    span = words.span(span_s)
    top = round_up(max(series["per_s"], default=0.0))
    lines = [("area", series["per_s"])]
    if any(series["failed_per_s"]):
        lines.append(("bad", series["failed_per_s"]))
    label = f"Requests per second in the last {span}: now {words.rate(traffic['per_s'])}, at most {words.rate(top)}."
    chart = time_chart(series["at_s"], lines, now=now, span_s=span_s, top=top, label=label)
    failed, requests = traffic["server_errors"], traffic["requests"]
    window = words.span(traffic["window_s"])
    told: list[Content] = [f"{words.count(requests)} in the last {window} · "]
    if failed:
        told.append(tag("strong", f"{words.count(failed)} failed ({words.percent(failed / requests)})", class_="bad"))
    else:
        told.append("none failed")
    if traffic["client_errors"]:
        told.append(f" · {words.plural(traffic['client_errors'], 'client error')}")
    scale = f"{words.rate(top)} /s"
    return _card("Requests", words.rate(traffic["per_s"]), "/s", told, chart, scale, (f"{span} ago", "now"))


def _latency_card(
    traffic: Mapping[str, Any], series: Mapping[str, Sequence[float]], now: float, span_s: float
) -> Markup:
    span = words.span(span_s)
    top = round_up(max(series["p99_us"], default=0.0))
    lines = [("second", series["p99_us"]), ("first", series["p50_us"])]
    p50, p99 = words.microseconds(traffic["p50_us"]), words.microseconds(traffic["p99_us"])
    label = f"Latency in the last {span}: half within {p50}, 99 % within {p99}."
    chart = time_chart(series["at_s"], lines, now=now, span_s=span_s, top=top, label=label, gaps=True)
    value, _, unit = p99.partition(" ")
    told = [_key("second"), "99 % within this", " · ", _key("first"), f"half within {p50}"]
    if traffic["p99_us"] is None:
        told = [f"No request in the last {words.span(traffic['window_s'])}."]
    return _card("Latency", value, unit, told, chart, words.microseconds(top), (f"{span} ago", "now"))


def _distribution_card(traffic: Mapping[str, Any]) -> Markup:
    marks = [(name, traffic[f"{name}_us"]) for name in ("p50", "p90", "p99", "p999")]
    if not any(traffic["buckets"]):
        empty = tag("p", "Bars appear with the first requests.", class_="empty")
        return _card("Distribution", "–", "", ["No request yet."], empty, "", ("", ""))
    chart, low, high = histogram(traffic["buckets"], marks)
    value, _, unit = words.microseconds(traffic["p999_us"]).partition(" ")
    told = [f"99.9 % within this · 90 % within {words.microseconds(traffic['p90_us'])}"]
    return _card("Distribution", value, unit, told, chart, "", (low, f"{high}, each bar twice the last"))


def _card(
    title: str, value: str, unit: str, told: Sequence[Content], chart: Markup, scale: str, ends: tuple[str, str]
) -> Markup:
    figure = tag("p", tag("span", value, class_="big"), " ", tag("span", unit, class_="unit"), class_="value")
    axis = tag("div", tag("span", ends[0]), tag("span", ends[1]), class_="axis")
    plot = tag("div", tag("span", scale, class_="scale") if scale else None, chart, class_="plot")
    return tag("article", tag("h3", title), figure, tag("p", told, class_="told"), plot, axis, class_="card")


def _key(name: str) -> Markup:
    return tag("span", class_=f"key {name}", aria_hidden="true")
