"""Output of commands: JSON for scripts, tables for people. rich is imported only when a table is shown."""

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forecache.base.results import StageResult
from forecache.cli.base import FLAGS
from forecache.kit import format_text as words
from forecache.kit.format_text import size as size

if TYPE_CHECKING:
    from rich.console import Console


PLAIN_WIDTH = 200
"""Width of output that is not a terminal, so that nothing is cut in a log or a pipe."""


def json_value(value: Any) -> Any:
    """A value that JSON can represent; dates in ISO format, timestamps in UTC with `Z`."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
        return moment.astimezone(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "item"):
        return value.item()
    return str(value)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, default=json_value, indent=2, ensure_ascii=False))


def wants_json() -> bool:
    return FLAGS.json


def show(value: Any, text: str | Callable[[], object]) -> None:
    """Print a result: as JSON if that is asked for, else its text for people, or what `text` prints."""
    if wants_json():
        print_json(value)
    elif isinstance(text, str):
        click.echo(text)
    else:
        text()


def show_rows(value: Any, columns: Sequence[str], rows: Iterable[Sequence[Any]], **table: Any) -> None:
    """Print a result: as JSON if that is asked for, else its rows by `show_table`."""
    show(value, lambda: show_table(columns, rows, **table))


def make_console(*, stderr: bool = False) -> "Console":
    """A rich console that neither wraps nor colours its output in a pipe."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, emoji=False)


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str = "",
    right: Sequence[str] = (),
    caption: str = "",
) -> None:
    """Print a table for people."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
    )
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[value if isinstance(value, Text) else Text(format_cell(value)) for value in row])
    make_console().print(table)
    if caption:
        click.echo(caption)


def format_cell(value: Any) -> str:
    """A value formatted for a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, str):
        return value
    return str(json_value(value))


def format_duration(seconds: float) -> str:
    """A duration in suitable units: 0.4 s, 12 s, 3 min 5 s, 2 h 4 min, 28 years."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds < 2 * 86400:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    if seconds < 2 * 365 * 86400:
        return f"{int(seconds // 86400)} days"
    return f"{seconds / (365.25 * 86400):.0f} years"


def stage_dict(result: StageResult) -> dict[str, Any]:
    """A stage's result with the stable keys of `--json`."""
    return {
        **vars(result),
        "nights": [night.isoformat() for night in result.nights],
        "seconds": round(result.seconds, 3),
        "details": dict(result.details),
    }


def format_dates(nights: Sequence[date]) -> str:
    """One as-of date, or first..last with their number."""
    if not nights:
        return "-"
    if len(nights) == 1:
        return nights[0].isoformat()
    return f"{nights[0].isoformat()}..{nights[-1].isoformat()} ({len(nights)})"


def show_stages(results: Sequence[StageResult], *, title: str = "") -> None:
    """Print the table of stages: what each wrote, and which were already current."""
    rows = [
        (
            result.stage,
            result.subject,
            format_dates(result.nights),
            result.rows,
            f"{result.seconds:.1f}",
            describe_outcome(result),
        )
        for result in results
    ]
    show_table(("stage", "of", "as of", "rows", "seconds", "result"), rows, title=title, right=("rows", "seconds"))


def show_warnings(results: Sequence[StageResult]) -> None:
    """Print on standard error what training sets and models that score have to be warned of, each once."""
    warned = (result.details.get("warnings", ()) for result in results if result.stage in ("training_set", "score"))
    for warning in dict.fromkeys(text for some in warned for text in some):
        click.secho(f"! {warning}", fg="yellow", err=True)


def describe_outcome(result: StageResult) -> str:
    """The result of a stage in a few words."""
    if result.skipped:
        return "already current"
    details = result.details
    if result.stage == "land":
        return f"{format_cell(details['files'])} files" if "files" in details else "landed"
    if result.stage == "register" and "model_version" in details:
        return f"model version {details['model_version']}"
    if result.stage == "gate":
        return "passed: champion" if details.get("passed") else "failed: stays a candidate"
    if result.stage == "publish" and "version" in details:
        return f"store version {details['version']}, {details.get('kind', '')}".rstrip(", ")
    if result.stage == "drift_report":
        return "HTML page" if details["path"] else "nothing to compare with yet"
    if result.stage in ("score", "score_challenger") and details.get("actual"):
        return f"{result.table} at Delta version {result.delta_version}{_describe_pace(details)}"
    if result.table and result.delta_version is not None:
        return f"{result.table} at Delta version {result.delta_version}{_describe_quarantine(details)}"
    return result.table or "done"


def _describe_quarantine(details: Mapping[str, Any]) -> str:
    """The files and rows that an ingestion put into quarantine, in a few words; "" if none."""
    files, rows = len(details.get("quarantined_files", ())), details.get("quarantined_rows", 0)
    counts = ((files, "whole file"), (rows, "row"))
    aside = [f"{count:,} {what}{'' if count == 1 else 's'}" for count, what in counts if count]
    return f"; in quarantine: {', '.join(aside)}" if aside else ""


def _describe_pace(details: Mapping[str, Any]) -> str:
    """Rows per second, cost and memory of a scoring run, next to the estimate."""
    actual, predicted = details["actual"], details["predicted"]
    parts = [f"{format_cell(actual['rows_per_second'])} rows/s"]
    parts += [f"{format_cell(predicted['rows_per_second'])} predicted"] if predicted else []
    parts += [f"{actual['core_s'] / 3600:.3g} core-hours"]
    parts += [f"{actual['price_on_demand']:.3g} on demand"] if "price_on_demand" in actual else []
    parts += [f"{size(actual['worker_bytes'])} a worker"] if actual["worker_bytes"] else []
    return f" ({', '.join(parts)})"


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
