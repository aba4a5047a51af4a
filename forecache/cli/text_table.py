"""Text for a terminal of 80 columns: tables, wrapped sentences, and what streams do."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forecache.kit import format_text as words

WIDTH = 80
_GAP = 2
Line = str


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> Iterator[Line]:
    """Rows in columns of the needed width; if a line does not fit, the widest columns are cut."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    while sum(widths) + _GAP * (len(widths) - 1) > WIDTH:
        widths[widths.index(max(widths))] -= 1
    for row in (titles, *rows):
        cells = [cell if len(cell) <= wide else f"{cell[: wide - 1]}…" for cell, wide in zip(row, widths, strict=True)]
        padded = [
            cell.rjust(wide) if place in right else cell.ljust(wide)
            for place, (cell, wide) in enumerate(zip(cells, widths, strict=True))
        ]
        yield (" " * _GAP).join(padded).rstrip()


def wrap(text: str) -> list[Line]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def streams_table(streams: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    """A line for each stream, and one for each live layer below; `streams` has documents of `described`."""
    rows = [
        (row["name"], row["state"], words.count(row["lag_events"]), f"{words.rate(row['rows_per_s'])} /s",
         words.delays(row), words.ago(row["committed_s_ago"]), words.count(row["bad"]))
        for row in streams
    ]  # fmt: skip
    yield from format_table(
        ("stream", "state", "waiting", "rows", "delay p50, p99", "committed", "bad"), rows, right=(2, 3, 6)
    )
    for row in streams:
        for each in row["layers"]:
            yield from wrap(
                f"{row['name']}: live layer {each['store']}: {words.live_layer(each, row['committed_version'])}"
            )
