"""Streams: `stream NAME` runs one, `stream tail` fills live layers, `streams` lists them."""

from datetime import date

import click

from forecache.base.plugins import load_hook
from forecache.cli.base import DateParam, DefaultGroup, command, settings
from forecache.cli.output import print_json, wants_json

_HERE = "forecache.cli.commands"
_CREATE_TIMEOUT_S = 30.0


@click.group(
    cls=DefaultGroup,
    default="run",
    lazy={
        "run": (f"{_HERE}.stream:run", "Run a stream; `forecache stream NAME` is short for it."),
        "tail": (f"{_HERE}.stream:tail", "Fill live layers from the tables of their streams."),
    },
)
def stream() -> None:
    """Streams: `forecache stream NAME` runs the stream NAME until it is interrupted."""


@command(
    "run",
    examples="""
    forecache stream cards
    forecache stream cards --create-topic
    forecache stream cards --until-caught-up
    forecache stream run cards --skip-lost                # "run" may be left out, as above
    forecache stream cards --backfill 2026-03-01 2026-03-03
    forecache stream cards --recompute
    """,
)
@click.argument("name", metavar="NAME")
@click.option(
    "--create-topic", is_flag=True, help="Create the topic first unless it exists, as the broker's defaults have it."
)
@click.option(
    "--standby/--no-standby", default=True, show_default=True,
    help="If another machine runs the stream, wait and take over when it ends or dies; else end with an error. "
    "Only with a lake in a bucket.",
)  # fmt: skip
@click.option("--until-caught-up", is_flag=True, help="End when what the topic holds now is committed.")
@click.option(
    "--skip-lost", is_flag=True,
    help="Go on with the messages that are there, where others expired or the topic was created again.",
)  # fmt: skip
@click.option(
    "--backfill",
    "landed",
    type=DateParam(),
    nargs=2,
    metavar="FROM TO",
    help="Take the landed events of these days into the stream's table instead, those that it lacks, and end.",
)
@click.option(
    "--recompute", is_flag=True,
    help="Compute the rows of the table again instead, compare every bit, and end; exits with 1 where one differs.",
)  # fmt: skip
@click.pass_context
def run(
    context: click.Context,
    name: str,
    create_topic: bool,
    standby: bool,
    until_caught_up: bool,
    skip_lost: bool,
    landed: tuple[date, date] | None,
    recompute: bool,
) -> None:
    """Run the stream NAME until interrupted: events become rows of its table, live features and answers.

    It may be killed at any moment, and goes on where its table stands.
    """
    import logging

    from forecache.declare import load_stream
    from forecache.kit.process.child import stop_event
    from forecache.stream.engine.engine import engine_of

    current = settings()
    declared = load_stream(current, name)
    if create_topic:
        from forecache.stream.kafka import client

        client.create_topic(client.client_options(current), declared.topic.topic, timeout_s=_CREATE_TIMEOUT_S)
    if landed or recompute:
        if landed:
            load_hook("backfill", "backfill_days")(current, declared, *landed)
        if recompute and not load_hook("backfill", "recompute_table")(current, declared):
            context.exit(1)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    engine = engine_of(declared)
    engine(
        current,
        declared,
        until_caught_up=until_caught_up,
        skip_lost=skip_lost,
        is_standby=standby and not until_caught_up,
        make_stop=stop_event,  # a signal ends a process that still waits
    ).run()


@command("streams", examples="forecache streams\nforecache streams cards\nforecache streams --json")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def streams(names: tuple[str, ...]) -> None:
    """Show whether each declared stream runs, what waits in its topic, how late its rows are, and its live layers.

    "died": its process ended without being told to; "stopped": it was told to. `forecache stream NAME` runs one.
    """
    from forecache.cli.output import streams_table
    from forecache.declare.loading import load_stream, read_project
    from forecache.stream.status import describe_stream, read_stream_status

    current = settings()
    declared = [load_stream(current, name) for name in names] or list(read_project(current).streams.values())
    found = [describe_stream(read_stream_status(current, each)) for each in declared]
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


@command("tail", examples="forecache stream tail\nforecache stream tail cards")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--until-input-ends", is_flag=True, hidden=True)
def tail(names: tuple[str, ...], until_input_ends: bool) -> None:
    """Bring the live layers of the streams NAME (default: all here) forward as they commit, until interrupted.

    `forecache serve` does so by itself where the extra `lake` is installed. Elsewhere run this beside it, such as in a
    sidecar that shares the store's volume. It may be killed at any moment.
    """
    import logging

    from forecache.kit.process.child import stop_event
    from forecache.stream.tail.tailer import run_tailer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    run_tailer(
        settings(),
        names,
        stop=stop_event(until_input_ends=until_input_ends),
        waiting=lambda name: click.echo(f"Another process follows for the live layer of {name}.", err=True),
    )
