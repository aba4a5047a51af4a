"""The charts at the top: requests, latency over time, and the distribution of latencies."""

from collections.abc import Mapping, Sequence
from typing import Any

from forecache.plugins.status.page import charts
from forecache.plugins.status.page.markup import Content, Markup, section, tag
from forecache.serve.reader.status import format_text as words
from forecache.serve.reader.status.history import LENGTH, STEP_S

_MOST_S, _LEAST_S = LENGTH * STEP_S, 60
_POINTS = 150
"""Most points of a line."""
_RATES, _LATENCIES = ("per_s", "failed_per_s"), ("p50_us", "p99_us")


def traffic_section(traffic: Mapping[str, Any], *, now: float) -> Markup:
    """Three cards side by side."""
    series = _thin_out(traffic["series"])
    span_s = _span_s(series, now)
    cards = [
        _requests_card(traffic, series, now, span_s),
        _latency_card(traffic, series, now, span_s),
        _distribution_card(traffic),
    ]
    return section("Traffic", "traffic", tag("div", cards, class_="cards"))


def _span_s(series: Mapping[str, Any], now: float) -> float:
    """Time that the charts cover: since the first sample, at least a minute, in seconds."""
    first = series["at_s"][0] if series["at_s"] else now
    return min(max(now - first, _LEAST_S), _MOST_S)


def _thin_out(series: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """At most about `_POINTS` of each series: means of rates, the largest of latencies.

    Samples are put together by their time, so that lines move to the left and do not change their shape.
    """
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
    top = charts.round_up(max(series["per_s"], default=0.0))
    lines = [("area", series["per_s"])]
    if any(series["failed_per_s"]):
        lines.append(("bad", series["failed_per_s"]))
    label = f"Requests per second in the last {span}: now {words.rate(traffic['per_s'])}, at most {words.rate(top)}."
    chart = charts.time_chart(series["at_s"], lines, now=now, span_s=span_s, top=top, label=label)
    failed, requests = traffic["server_errors"], traffic["requests"]
    window = words.span(traffic["window_s"])
    told: list[Content] = [f"{words.count(requests)} in the last {window}"]
    if failed:
        told += [
            " · ",
            tag("strong", f"{words.count(failed)} failed ({words.percent(failed / requests)})", class_="bad"),
        ]
    else:
        told.append(" · none failed")
    if traffic["client_errors"]:
        told.append(f" · {words.plural(traffic['client_errors'], 'client error')}")
    scale = f"{words.rate(top)} /s"
    return _card("Requests", words.rate(traffic["per_s"]), "/s", told, chart, scale, (f"{span} ago", "now"))


def _latency_card(
    traffic: Mapping[str, Any], series: Mapping[str, Sequence[float]], now: float, span_s: float
) -> Markup:
    span = words.span(span_s)
    top = charts.round_up(max(series["p99_us"], default=0.0))
    lines = [("second", series["p99_us"]), ("first", series["p50_us"])]
    p50, p99 = words.microseconds(traffic["p50_us"]), words.microseconds(traffic["p99_us"])
    label = f"Latency in the last {span}: half within {p50}, 99 % within {p99}."
    chart = charts.time_chart(series["at_s"], lines, now=now, span_s=span_s, top=top, label=label, gaps=True)
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
    chart, low, high = charts.histogram(traffic["buckets"], marks)
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
