"""docs/explanation/benchmarks.md: by topic who is ahead, a few rows of all that was measured, and a chart."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape
from itertools import groupby
from typing import Any

from _common import machine
from _common.rows import NEVER, Row, markdown, number, ratio_text

MOST_PEERS = 3
"""Of a contest; other topics show all rows that they match."""
HEADS = ["What", "Forecache", "Peer", "Times better"]
HEADS_ALONE = ["What", "Forecache", "Beside"]
_NOTES = re.compile(r" \(ratio: [^)]*\)|, (CPU )?(s|MB|GB)$")
"""Of a row what its unit says, and how a ratio was taken that is not shown."""


@dataclass(frozen=True)
class Topic:
    """Rows of one section that answer one question.

    Attributes:
        what: Pattern that the beginning of `Row.what` matches.
        less_is_better: Whether the smaller figure is the better one, such as a time.
        is_contest: Whether the rows have peers of which one is ahead; else the first rows are shown as they are.
        peers: Pattern that the beginning of a peer's name matches.
    """

    title: str
    benchmark: str
    section: str
    what: str
    less_is_better: bool = False
    is_contest: bool = True
    peers: str = ""

    @property
    def file_name(self) -> str:
        """Of its chart."""
        return "-".join(re.findall(r"[a-z0-9]+", self.title.lower())) + ".svg"

    @property
    def command(self) -> str:
        return f'make bench-{self.benchmark} ARGS="--only {self.section}"'

    def matching(self, rows: Iterable[Row]) -> list[Row]:
        """Its rows, of a contest those with a peer, the strongest peer first."""
        found = [
            replace(row, what=_NOTES.sub("", row.what))
            for row in rows
            if re.match(self.what, row.what) and re.match(self.peers, row.peer) and row.ours.median < NEVER
        ]
        if not self.is_contest:
            return found
        return sorted((row for row in found if row.theirs is not None), key=self.times_better)

    def shown(self, found: list[Row]) -> list[Row]:
        """The rows of the page, of all that match."""
        return found[:MOST_PEERS] if self.is_contest else found

    def times_better(self, row: Row) -> float:
        """How many times better Forecache is than the peer; below 1 the peer is better."""
        assert row.theirs is not None
        better, worse = row.ours.median, row.theirs.median
        if self.less_is_better:
            better, worse = worse, better
        return better / worse if worse else NEVER


_NUMBER = r"[\d,]+"
TOPICS = (
    Topic("One key over HTTP, Feast's request and answer", "store", "http-one",
          "Forecache, Feast's format: requests per second"),
    Topic("One key over HTTP", "store", "http-one", "Forecache: requests per second"),
    Topic("One key over HTTP, the slowest answers", "store", "http-one", "Forecache: p99", less_is_better=True),
    Topic("100 keys over HTTP", "store", "http-many", "Forecache: requests per second"),
    Topic("A full publish, verified", "store", "publish", "full publish of"),
    Topic("Reads of one key in process", "store", "in-process", "`get`, p50", less_is_better=True),
    Topic("A nightly run beside scripts by hand", "night", "night", f"{_NUMBER} keys, {_NUMBER} new events, s$",
          less_is_better=True),
    Topic("The next day of a small project", "night", "next_day", "a day of", is_contest=False),
    Topic("A run with nothing to do, after years", "history", "history", "a run with nothing to do", is_contest=False),
    Topic("Windowed features, a month at once", "features", "month", f"{_NUMBER} events, s$", less_is_better=True),
    Topic("Windowed features, one day more", "features", "next", f"{_NUMBER} events, s$", less_is_better=True),
    Topic("Windowed features, memory", "features", "next", f"{_NUMBER} events, GB$", less_is_better=True),
    Topic("A point-in-time join", "features", "historical", "", less_is_better=True),
    Topic("Batch scoring without a JVM", "scoring", "arrow", "Forecache without a JVM, 16,000,000 rows"),
    Topic("Features of 50 keys as a matrix", "realtime", "lookup", ".*, median", less_is_better=True),
    Topic("Ranking 50 candidates in real time", "realtime", "network", "Requests per second at p99"),
    Topic("The same release in BentoML", "realtime", "bento", "Requests per second"),
    Topic("Overload of a real-time model", "realtime", "overload",
          ".* times the best rate: answers wholly|.*, 10 times the best rate: requests (accepted|neither)",
          is_contest=False),
    Topic("Publishes and releases under load", "realtime", "swap",
          "Requests without|p99.9 with|The slowest answer with|Answers by the model|Wrong answers", is_contest=False),
    Topic("Logging every answer", "operate", "log", "Requests per second|p99 at|CPU time|Answers that",
          is_contest=False),
    Topic("From an event to its answer", "stream", "event",
          "From an event|The same, p99|The same, the longest|Events that are", is_contest=False),
    Topic("Training samples from a Delta table", "training", "reading", "rows streamed .* 2 cores"),
    Topic("Quality of the recommender EASE", "recommend", "movielens", "nDCG@10 of EASE",
          peers="(?!Forecache|two towers)"),
    Topic("Quality of the demo's models", "demo", "demo",
          "(churn|spend), test split: `(roc_auc|mae|rmse|r2|spearman)`", is_contest=False),
)  # fmt: skip


def place_of(section: dict[str, Any]) -> str:
    """On which commit and machine a section was measured."""
    moment = machine.moments_of(section)[0]
    return f"commit {moment['commit']}, {moment['cores']} cores, {moment['processor']}"


def topic_parts(
    topic: Topic, title: str, section: dict[str, Any] | None, rows: list[Row], charts: str, usual_place: str = ""
) -> list[str]:
    """The paragraphs of a topic.

    Args:
        title: What the section measures.
        rows: All rows of the section.
        charts: Folder of the charts, relative to the page.
        usual_place: What need not be repeated of a section that was measured there.
    """
    found, title = topic.matching(rows), f"{title[0].upper()}{title[1:]}"
    if section is None or not found:
        return [f"## {topic.title}", f"{title}. Not measured: `{topic.command}` measures it."]
    shown, warnings = topic.shown(found), machine.warnings(topic.section, section)
    parts = [f"## {topic.title}"]
    if topic.is_contest:
        is_all_said = len(found) == len(shown) and topic.times_better(found[0]) >= 1
        parts += [*([] if is_all_said else [verdict(topic, found)]), _contest(topic, shown)]
        parts.append(f"![{direction(topic).capitalize()}]({charts}/{topic.file_name})")
    else:
        parts.append(_alone(shown))
    place = place_of(section)
    where = "" if place == usual_place else f", {place}"
    return [*parts, " ".join([f"{title}: `{topic.command}`{where}.", *(f"**{line}**" for line in warnings)])]


def _contest(topic: Topic, rows: list[Row]) -> str:
    """A table of peers. What was measured stands in its head if it is the same in all rows."""
    lines = []
    for row in rows:
        what, ours, peer, _ = row.cells(spread=False)
        times = topic.times_better(row)
        lines.append([what, ours, peer, f"**{ratio_text(times)}**" if times < 1 else ratio_text(times)])
    if len({(what, ours) for what, ours, _, _ in lines}) == 1:
        return markdown([f"{lines[0][0]}: {lines[0][1]}", HEADS[-1]], (line[2:] for line in lines))
    return markdown(HEADS, lines)


def _alone(rows: list[Row]) -> str:
    lines = [row.cells(spread=False)[:3] for row in rows]
    columns = 3 if any(line[2] for line in lines) else 2
    return markdown(HEADS_ALONE[:columns], (line[:columns] for line in lines))


def verdict(topic: Topic, found: list[Row]) -> str:
    """Who is ahead, in a sentence."""
    times = [topic.times_better(row) for row in found]
    if len(times) == 1:
        return "**The peer is better.**" if times[0] < 1 else "Better than the peer."
    ahead = list(dict.fromkeys(row.peer for row, each in zip(found, times, strict=True) if each < 1))
    of = "all comparisons" if len(found) > 2 else "both comparisons"
    if times[0] >= 1:
        return f"Better in {of}, by {ratio_text(times[0])} to {ratio_text(times[-1])} times."
    if times[-1] < 1:
        return f"**The peer is better in {of}.**"
    better = sum(each >= 1 for each in times)
    return f"Better in {better} of {len(found)} comparisons. **Better peers: {'; '.join(ahead)}.**"


def direction(topic: Topic) -> str:
    return f"{'less' if topic.less_is_better else 'more'} is better"


_WIDTH, _BARS, _LONGEST, _LINE = 720, 300, 310, 20
_OURS, _THEIRS, _TEXT = "#2f7fb5", "#a8a8a8", "#777777"
_MOST_CHARS = 44


def chart(topic: Topic, rows: list[Row]) -> str:
    """Horizontal bars of a topic's rows as an SVG image: for each thing that was measured Forecache, then its peers."""
    bars: list[tuple[str, float, str, str]] = []
    for what, group in groupby(sorted(rows, key=lambda row: row.what), key=lambda row: row.what):
        alike = list(group)
        name = "Forecache" if len({row.what for row in rows}) == 1 else f"Forecache, {what}"
        bars.append((name, alike[0].ours.median, alike[0].unit, _OURS))
        bars += [(row.peer, row.theirs.median, row.unit, _THEIRS) for row in alike if row.theirs is not None]
    longest = max((value for _, value, _, _ in bars), default=0.0) or 1.0
    lines = [_text(0, 14, f"{topic.title} ({direction(topic)})")]
    for place, (name, value, unit, colour) in enumerate(bars, 1):
        top = place * _LINE + 6
        width = max(1.0, _LONGEST * value / longest)
        lines += [
            _text(0, top + 12, _short(name)),
            f'<rect x="{_BARS}" y="{top}" width="{width:.1f}" height="14" fill="{colour}"/>',
            _text(_BARS + width + 6, top + 12, f"{number(value)} {unit}".strip()),
        ]
    height = (len(bars) + 1) * _LINE + 8
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
    head += f'font-family="sans-serif" font-size="12" fill="{_TEXT}">'
    return "\n".join([head, *lines, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y}">{escape(text)}</text>'


def _short(name: str) -> str:
    plain = name.replace("`", "")
    return plain if len(plain) <= _MOST_CHARS else f"{plain[: _MOST_CHARS - 1]}…"
