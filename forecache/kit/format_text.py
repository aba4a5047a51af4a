"""Figures and states as short texts, for the page and for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

_SPANS = ((86400 * 2, 86400, "days"), (3600, 3600, "h"), (60, 60, "min"))
_SIZES = ("B", "kB", "MB", "GB", "TB")


def count(value: int | None) -> str:
    """1,234,567; a dash for None."""
    return "–" if value is None else f"{value:,}"


def rate(per_s: float) -> str:
    """A rate with as many decimals as its size deserves: 0, 0.25, 3.4, 1,234."""
    if per_s == 0 or per_s >= 100:
        return f"{per_s:,.0f}"
    return f"{per_s:.1f}" if per_s >= 1 else f"{per_s:.2f}"


def microseconds(value: float | None) -> str:
    """A duration that was measured in microseconds, in the unit that suits it: 85 µs, 1.25 ms, 2.0 s."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value:.0f} µs"
    if value < 1e6:
        ms = value / 1000
        return f"{ms:.2f} ms" if ms < 10 else f"{ms:.1f} ms" if ms < 100 else f"{ms:.0f} ms"
    return f"{value / 1e6:.1f} s"


def span(seconds: float | None) -> str:
    """A time in one or two units: 12 s, 5 min, 3 h 12 min, 4 days."""
    if seconds is None:
        return "–"
    for least, unit, name in _SPANS:
        if seconds >= least:
            whole, rest = divmod(int(seconds), unit)
            return f"{whole} h {rest // 60} min" if name == "h" and rest >= 60 else f"{whole} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s" if seconds else "0 s"


def ago(seconds: float | None) -> str:
    """12 s ago; a dash for None."""
    return "–" if seconds is None else f"{span(seconds)} ago"


def percent(share: float | None) -> str:
    """A share as a percentage, which is 0 or 100 only if the share is 0 or 1."""
    if share is None:
        return "–"
    if share in (0, 1):
        return f"{share * 100:.0f} %"
    value = share * 100
    if value >= 99.9 or value < 0.1:
        return "> 99.99 %" if value > 99.99 else "< 0.01 %" if value < 0.01 else f"{value:.2f} %"
    return f"{value:.1f} %"


def size(num_bytes: float) -> str:
    """A number of bytes in the unit that suits it: 9.5 MB."""
    value = float(num_bytes)
    for unit in _SIZES:
        if value < 1000 or unit == _SIZES[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def plural(number: int, one: str, many: str = "") -> str:
    """1 worker, 2 workers."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def reason(name: str) -> str:
    """The name of a fallback or reason in counters, as words."""
    return name.replace("_", " ")


_STAGES = {
    "aa": "compares release {current} with itself before release {release} is asked",
    "shadow": "release {release} is asked beside release {current}, and its answers are not sent",
    "canary": "release {release} answers {share} of the keys",
    "done": "release {release} took over from release {current}",
    "returned": "release {release} was returned, release {current} answers",
}


def rollout(state: Mapping[str, Any]) -> str:
    """The newest rollout of a model in a sentence without its full stop, with the reason for its stage."""
    told = _STAGES[state["stage"]].format(**{**state, "share": percent(state["share"])})
    paused = ", paused" if state["paused"] else ""
    why = f": {state['why'].rstrip('.')}" if state["why"] else ""
    return f"{told}{paused}{why}"


def drift(columns: Sequence[Mapping[str, Any]]) -> str:
    """The column of a model that has moved the most from its training data, of all that are measured."""
    if not columns:
        return "not measured"
    worst = max(columns, key=lambda each: float(each["psi"]))
    return f"{worst['column']} moved the most, PSI {worst['psi']:.2f}"


def delays(stream: Mapping[str, Any]) -> str:
    """The median and the 99th percentile of a stream's delays in the last minute; a dash if there was no event."""
    if stream["delay_p50_s"] is None or stream["delay_p99_s"] is None:
        return "–"
    return f"{microseconds(stream['delay_p50_s'] * 1e6)}, {microseconds(stream['delay_p99_s'] * 1e6)}"


def live_layer(layer: Mapping[str, Any], committed: int) -> str:
    """The rows of a live layer, its lag behind the table of its stream, and the age of its last verification."""
    if layer["applied"] < 0:
        return "nothing applied here"
    behind = max(0, committed - layer["applied"])
    applied = "all applied" if not behind else f"{plural(behind, 'version')} behind"
    verified = f"verified {ago(layer['verified_s_ago'])}" if layer["verified_through"] >= 0 else "not verified"
    return f"{plural(layer['rows'], 'row')}, {applied}, {verified}"


_HEADLINES = {"well": "All is well", "warning": "Needs attention", "critical": "Not well"}


def headline(state: str, ready: bool) -> str:
    """The state of a reader in a few words."""
    return "Not ready" if not ready else _HEADLINES[state]
