"""The request log of real-time models: `log show`, `log spool` and `log commit`."""

import heapq
import json
import time
from dataclasses import asdict
from datetime import date, datetime, timezone
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from forecache.base.errors import NotFoundError, SettingsError
from forecache.cli.base import DateParam, LazyGroup, command, settings
from forecache.cli.output import json_value, show_rows, show_table, size, wants_json
from forecache.cli.resolve_names import require_log, require_spool

if TYPE_CHECKING:
    from forecache.base.settings import Settings

_HERE = "forecache.cli.commands.log"
_FOLLOW_S = 1.0
_FIGURES = ("commits", "rows", "lag_s", "committed_at", "failing_since", "failure")


@click.group(
    cls=LazyGroup,
    lazy={
        "show": (f"{_HERE}:show", "Show what a real-time model answered, and why."),
        "spool": (f"{_HERE}:spool", "Show what waits for the lake, and what was lost."),
        "commit": (f"{_HERE}:commit", "Commit what waits to the lake, until interrupted."),
    },
)
def log() -> None:
    """The request log: what real-time models answered, from which features, versions and answered_by."""


@command(
    "show",
    examples="""
    forecache log show search
    forecache log show search --request-id 4f0c1d --json
    forecache log show search --date 2026-03-01 --last 100
    forecache log show search --follow
    """,
)
@click.argument("name", metavar="NAME")
@click.option("--date", "day", type=DateParam(), help="Only answers of this date in UTC.")
@click.option("--request-id", help="Only the answers to this request.")
@click.option(
    "--last", type=click.IntRange(min=1), default=20, show_default=True, help="How many of the newest answers."
)
@click.option("--follow", is_flag=True, help="Go on showing answers as they reach the lake, until interrupted.")
def show(name: str, day: date | None, request_id: str | None, last: int, follow: bool) -> None:
    """Show the newest logged answers of the real-time model NAME; with --json one object a line, features included."""
    from forecache.kit.delta.tables import open_table
    from forecache.realtime.log.record import table_of

    current = settings()
    require_log(current, name)
    seen = open_table(current, table_of(name)).version()
    _print_answers(_read_newest(current, name, day, request_id, last, seen))
    while follow:
        from forecache.realtime.log.read import read_commits_since

        time.sleep(_FOLLOW_S)
        for seen, rows in read_commits_since(current, name, seen):  # noqa: B020, B007  # the next look begins behind it
            found = [row for row in rows.to_pylist() if request_id in (None, row["request_id"])]
            _print_answers(sorted(found, key=_arrival_time))


def _read_newest(
    current: "Settings", name: str, day: date | None, request_id: str | None, last: int, version: int
) -> list[dict[str, Any]]:
    """Answers in the order of their arrival, the newest last."""
    from forecache.kit.delta.log import active_files
    from forecache.kit.delta.tables import open_table
    from forecache.realtime.log.read import read_log
    from forecache.realtime.log.record import DAY, table_of

    files = active_files(open_table(current, table_of(name), version=version))
    found: list[dict[str, Any]] = []
    for its_day in sorted({str(file.partition[DAY]) for file in files}, reverse=True):
        if day is not None and its_day != day.isoformat():
            continue
        batches = read_log(current, name, days=[date.fromisoformat(its_day)], request_id=request_id, version=version)
        rows = chain.from_iterable(batch.to_pylist() for batch in batches)
        found = heapq.nlargest(last, chain(found, rows), key=_arrival_time)
        if len(found) == last:
            break
    return sorted(found, key=_arrival_time)


def _arrival_time(row: dict[str, Any]) -> datetime:
    arrived: datetime = row["arrived_at"]
    return arrived


def _print_answers(rows: list[dict[str, Any]]) -> None:
    from forecache.realtime.log.read import format_arrival, record_as_json

    if wants_json():
        for row in rows:
            click.echo(json.dumps(record_as_json(row), default=json_value, ensure_ascii=False))
        return
    if not rows:
        return
    cells = [
        (
            format_arrival(row["arrived_at"]),
            row["request_id"],
            row["key"],
            row["items"],
            f"{row['release']} {row['variant']}",
            row["answered_by"],
            row["fallback_reason"] or ("late" if row["late"] else ""),
            " ".join(f"{store['name']}:{store['version']}" for store in row["stores"]),
            f"{row['total_us'] / 1e3:.3f}",
        )
        for row in rows
    ]
    columns = ("arrived (UTC)", "request", "key", "items", "release", "answered_by", "fallback_reason", "stores", "ms")
    show_table(columns, cells, right=("items", "ms"))


@command("spool", examples="forecache log spool\nforecache log spool --json")
def spool() -> None:
    """Show how many rows of each model's log wait here for the lake, were committed, and were lost."""
    from forecache.realtime.log.spool_files import (
        lost_rows,
        read_state,
        segments_of,
        size_of,
        spooled_models,
        streams_of,
    )

    current = settings()
    root, found = current.request_log_path, []
    for name in spooled_models(root):
        state = read_state(root / name)
        segments = [each for stream in streams_of(root / name) for each in segments_of(stream)]
        figures = {each: value for each, value in asdict(state).items() if each in _FIGURES}
        lost = lost_rows(current, name)
        found.append(
            {"name": name, "segments": len(segments), "bytes": sum(map(size_of, segments)), "lost": lost, **figures}
        )
    rows = [
        (
            each["name"],
            each["segments"],
            size(each["bytes"]),
            each["commits"],
            each["rows"],
            ", ".join(f"{count:,} {reason}" for reason, count in each["lost"].items()) or "none",
            f"{each['lag_s']:.1f}",
            _format_moment(each["committed_at"]),
            each["failure"],
        )
        for each in found
    ]
    columns = ("model", "segments", "waiting", "commits", "rows", "lost", "delay s", "last commit", "failure")
    show_rows(found, columns, rows, right=("segments", "waiting", "commits", "rows", "delay s"))


def _format_moment(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ") if moment else "never"


@command("commit", examples="forecache log commit\nforecache log commit search --once")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--once", is_flag=True, help="Commit what is there, then end.")
@click.option("--until-input-ends", is_flag=True, hidden=True)
def commit(names: tuple[str, ...], once: bool, until_input_ends: bool) -> None:
    """Commit the request log of the models NAME (default: all) from the spool to the lake, until interrupted.

    `forecache serve` does so by itself where the extra `lake` is installed. Elsewhere run this beside it, such as in a
    sidecar that shares the spool's volume. It may be killed at any moment.
    """
    import logging

    from forecache.kit.process.child import stop_event
    from forecache.realtime.log.commit_loop import run_committer

    current = settings()
    for name in names:
        try:
            require_spool(current, name)
        except (NotFoundError, SettingsError) as error:  # on a replica there may be no project
            if once or not current.store_remote:
                raise
            awaited = f"Waiting for rows of {name}, a model that `forecache store pull` may bring here."
            click.echo(f"{awaited} {error}", err=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    stop = stop_event(until_input_ends=until_input_ends)
    if once:
        stop.set()
    run_committer(current, names, stop=stop, waiting=lambda: click.echo("Another committer is at work here.", err=True))
