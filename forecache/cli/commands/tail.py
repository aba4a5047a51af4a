"""`forecache stream tail`: fills live layers from the tables of their streams."""

import click

from forecache.cli.base import command, settings


@command("tail", examples="forecache stream tail\nforecache stream tail cards")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--until-input-ends", is_flag=True, hidden=True)
def tail(names: tuple[str, ...], until_input_ends: bool) -> None:
    """Bring the live layers of the streams NAME (default: all here) forward as they commit, until interrupted.

    `forecache serve` does so by itself where the extra `lake` is installed. Elsewhere run this beside it, such as in a
    sidecar that shares the store's volume. It may be killed at any moment.
    """
    import logging
    import os
    import signal
    import threading

    from forecache.stream.tail.run import run_tailer, wait_for_end_of_input

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if until_input_ends:
        os.nice(5)  # answers come first
        wait_for_end_of_input(stop)
    run_tailer(
        settings(),
        names,
        stop=stop,
        waiting=lambda name: click.echo(f"Another process follows for the live layer of {name}.", err=True),
    )
