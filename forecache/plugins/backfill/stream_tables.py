"""Backfill a stream's table from the lake, or recompute it, for `forecache stream NAME`."""

from dataclasses import asdict
from datetime import date

import click

from forecache.base.settings import Settings
from forecache.cli.output import print_json, wants_json
from forecache.declare import Stream


def backfill_days(settings: Settings, stream: Stream, first: date, last: date) -> None:
    """Add the events of landed days to a stream's table, and print the result of each day."""
    from forecache.plugins.backfill.backfill import BackfilledDay, backfill

    def print_day(day: BackfilledDay) -> None:
        if not wants_json():
            click.echo(f"{day.day}  {day.landed:>12,} landed  {day.added:>12,} added")

    days = backfill(settings, stream, first, last, told=print_day)
    if wants_json():
        print_json([asdict(day) for day in days])


def recompute_table(settings: Settings, stream: Stream) -> bool:
    """Compute a stream's table again; returns True if all compared rows are equal."""
    from forecache.plugins.backfill.recompute import recompute

    found = recompute(settings, stream)
    if wants_json():
        print_json(asdict(found))
        return found.difference is None
    click.echo(f"{found.compared:,} of {found.rows:,} rows compared in {found.seconds:.1f} s")
    for each in found.gone:
        click.echo(f"not there any more, so that its rows are not compared: {each}")
    differs = found.difference
    if differs is None:
        click.echo("every bit is equal" if found.compared else "nothing could be compared")
        return True
    key = ", ".join(f"{name}={value}" for name, value in differs.key.items())
    click.echo(
        f"The row of {key} (position {differs.position}, place {differs.place}, offset {differs.offset} of partition "
        f"{differs.partition}) differs in {differs.column}:"
    )
    click.echo(f"  table     {differs.there!r}\n  computed  {differs.here!r}")
    return False
