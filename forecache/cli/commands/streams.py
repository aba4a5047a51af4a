"""`forecache streams`: the declared streams and how they are."""

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, wants_json


@command("streams", examples="forecache streams\nforecache streams cards\nforecache streams --json")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def streams(names: tuple[str, ...]) -> None:
    """Show whether each declared stream runs, what waits in its topic, how late its rows are, and its live layers.

    "died": its process ended without being told to; "stopped": it was told to. `forecache stream NAME` runs one.
    """
    from forecache.cli.status_text import streams_table
    from forecache.monitoring.streams.overview import described, stream_now
    from forecache.pipeline.loading import load_stream, read_project

    current = settings()
    declared = [load_stream(current, name) for name in names] or list(read_project(current).streams.values())
    found = [described(stream_now(current, each)) for each in declared]
    if wants_json():
        print_json(found)
        return
    if not found:
        click.echo(f"No module of {current.project}.pipelines declares a stream.")
        return
    for line in streams_table(found):
        click.echo(line)
    for row in found:
        for sentence in row["not_well"]:
            click.echo(f"!  {sentence}")
