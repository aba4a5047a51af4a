"""A figure beside its peer, with what is asked of it, and tables of such rows."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Value:
    """The median of some samples, and their extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Iterable[float]) -> "Value":
        found = sorted(samples)
        return cls(statistics.median(found), found[0], found[-1])

    def __truediv__(self, other: "Value") -> float:
        return self.median / other.median


@dataclass(frozen=True)
class Asked:
    """A limit on a figure, or on its ratio to the peer's where `of_ratio`."""

    limit: float
    at_least: bool = True
    of_ratio: bool = True
    unit: str = ""

    @property
    def text(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{sign} {number(self.limit)}{' x' if self.of_ratio else f' {self.unit}' if self.unit else ''}"

    def met_by(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Row:
    """One figure of the published table.

    Attributes:
        key: Names the figure for whoever picks it, as the README does.
        ratio: How many times better than the peer where that is meant, else ours over the peer's; None: no peer.
        asked: None where nothing is asked; the row is published all the same.
    """

    what: str
    ours: Value
    unit: str = ""
    peer: str = ""
    theirs: Value | None = None
    ratio: float | None = None
    asked: Asked | None = field(default=None)
    key: str = ""

    @property
    def met(self) -> bool | None:
        if self.asked is None:
            return None
        value = self.ratio if self.asked.of_ratio else self.ours.median
        assert value is not None, self
        return self.asked.met_by(value)

    @property
    def asked_text(self) -> str:
        if self.asked is None:
            return ""
        return self.asked.text if self.met else f"{self.asked.text} **missed**"

    @property
    def is_peer_better(self) -> bool:
        return self.asked is not None and self.asked.of_ratio and self.asked.at_least and (self.ratio or 1.0) < 1.0

    def cells(self, *, spread: bool) -> list[str]:
        """What, ours, peer, ratio."""
        show = with_spread if spread else (lambda value: number(value.median))
        unit = f" {self.unit}" if self.unit else ""
        if self.ours.median >= NEVER:
            return [self.what, "never", self.peer, ""]
        peer = self.peer
        if self.theirs is not None:
            peer = f"{peer}: {show(self.theirs)}{unit}"
        ratio = ratio_text(self.ratio) + (" (the peer is better)" if self.is_peer_better else "")
        return [self.what, f"{show(self.ours)}{unit}", peer, ratio]

    def cells_with_asked(self) -> list[str]:
        """What, ours, peer, ratio, asked: for whoever measures."""
        return [*self.cells(spread=True), self.asked_text]


NEVER = 1e9
"""Stands for infinity in a result file: what never came."""
HEADS = ["What", "Forecache", "Peer", "Ratio"]
HEADS_WITH_ASKED = [*HEADS, "Asked"]


def number(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 0.1 else 4
    return f"{value:,.{digits}f}"


def ratio_text(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"


def with_spread(value: Value) -> str:
    if value.low == value.high:
        return number(value.median)
    return f"{number(value.median)} ({number(value.low)} to {number(value.high)})"


def markdown(heads: list[str], lines: Iterable[list[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in each)} |" for each in rows)


def text_table(heads: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in [heads, *lines]) for column in range(len(heads))]

    def render(line: list[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()

    return "\n".join([render(heads), "  ".join("-" * width for width in widths), *map(render, lines)])


def paired(ours: list[float], peers: list[float]) -> float:
    """The median of peer / ours of neighbours in time, which a busier minute moves less than the ratio of medians."""
    return statistics.median(peer / mine for mine, peer in zip(ours, peers, strict=True))
