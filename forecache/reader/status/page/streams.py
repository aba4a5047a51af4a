"""The section of the streams: which run, how far they are, and how far their live layers are."""

from collections.abc import Mapping, Sequence
from typing import Any

from forecache.reader.status import words
from forecache.reader.status.page.markup import Content, Markup, joined, section, tag
from forecache.reader.status.page.table import Column, table

_STREAM_COLUMNS = (
    Column("Name"), Column("State"), Column("Waiting", right=True), Column("Rows", right=True),
    Column("Delay (half, 99 %)", right=True), Column("Committed", right=True),
    Column("Bad", right=True), Column("Late", right=True), Column("Live layers", long=True),
)  # fmt: skip
_STREAM_STATES = {"runs": "well", "stopped": "warning", "never ran": "warning", "died": "critical"}


def streams_section(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The declared streams; None if there are none."""
    if not rows:
        return None
    shown = table("Streams and the live layers that they feed", _STREAM_COLUMNS, [_stream(row) for row in rows])
    return section("Streams", "streams", tag("div", shown, class_="card"))


def _stream(row: Mapping[str, Any]) -> list[Content]:
    about = f"topic {row['topic']}, engine {row['engine']}, {row['freshness']}"
    name = joined([tag("span", row["name"], class_="name"), tag("span", about, class_="about")])
    colour = "warning" if row["state"] == "runs" and row["not_well"] else _STREAM_STATES[row["state"]]
    layers = [
        tag("span", tag("span", each["store"], class_="name"), " ",
            tag("span", words.live_layer(each, row["committed_version"]), class_="what"), class_="of")
        for each in row["layers"]
    ]  # fmt: skip
    return [
        name, tag("span", row["state"], class_=f"chip {colour}"), words.count(row["lag_events"]),
        f"{words.rate(row['rows_per_s'])} /s", words.delays(row), words.ago(row["committed_s_ago"]),
        words.count(row["bad"]), words.count(row["late"]), layers or "–",
    ]  # fmt: skip
