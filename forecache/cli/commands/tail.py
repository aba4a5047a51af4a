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

    from forecache.arrow_alone import arrow_without_pandas
    from forecache.beside import stop_event

    arrow_without_pandas()
    from forecache.stream.tail.run import run_tailer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    run_tailer(
        settings(),
        names,
        stop=stop_event(until_input_ends=until_input_ends),
        waiting=lambda name: click.echo(f"Another process follows for the live layer of {name}.", err=True),
    )
