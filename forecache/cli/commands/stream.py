"""Streams: `stream NAME` runs one."""

import click

from forecache.cli.base import DefaultGroup, command, settings

_HERE = "forecache.cli.commands"


@click.group(
    cls=DefaultGroup,
    default="run",
    lazy={
        "run": (f"{_HERE}.stream:run", "Run a stream; `forecache stream NAME` is short for it."),
        "tail": (f"{_HERE}.tail:tail", "Fill live layers from the tables of their streams."),
    },
)
def stream() -> None:
    """Streams: `forecache stream NAME` runs the stream NAME until it is interrupted."""


@command(
    "run",
    examples="""
    forecache stream cards
    forecache stream cards --until-caught-up
    """,
)
@click.argument("name", metavar="NAME")
@click.option("--until-caught-up", is_flag=True, help="End when what the topic holds now is committed.")
@click.option(
    "--skip-lost", is_flag=True,
    help="Go on with the messages that are there, where others expired or the topic was created again.",
)  # fmt: skip
def run(name: str, until_caught_up: bool, skip_lost: bool) -> None:
    """Run the stream NAME until interrupted: events become rows of its table, live features and answers.

    It may be killed at any moment, and goes on where its table stands.
    """
    import logging
    import signal
    import threading

    from forecache.pipeline import load_stream
    from forecache.stream.run import run_stream

    current = settings()
    declared = load_stream(current, name)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_stream(current, declared, until_caught_up=until_caught_up, skip_lost=skip_lost, stop=stop)
