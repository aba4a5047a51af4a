"""`forecache metrics`: the metrics of the batch half for Prometheus, and the glossary of all metrics."""

from pathlib import Path

import click

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.cli.base import command, settings
from forecache.cli.output import print_json, wants_json


@command(
    "metrics",
    examples="""
    forecache metrics
    forecache metrics --textfile /var/lib/node_exporter/forecache.prom
    forecache metrics --listen 127.0.0.1:9464
    forecache metrics --glossary
    """,
)
@click.option("--textfile", type=click.Path(path_type=Path), help="Write the metrics to this file, in one step.")
@click.option("--listen", metavar="HOST:PORT", help="Answer scrapes of /metrics until stopped.")
@click.option("--glossary", is_flag=True, help="Print every metric as Markdown tables, for a document.")
def metrics(textfile: Path | None, listen: str | None, glossary: bool) -> None:
    """Print the metrics of stages, stores, the gate and monitoring for Prometheus, read from the lake and the store.

    The reader exports its own metrics. These are scraped at the address of --listen, or collected by a node exporter
    from the file of --textfile, whose name has to end in `.prom`. With --json, the glossary of all metrics is printed.
    """
    from forecache.kit.metrics.metric import METRICS, render_glossary

    if glossary:
        click.echo(render_glossary())
        return
    if wants_json():
        print_json(list(METRICS.values()))
        return
    from forecache.plugins.exporter.batch_page import batch_page

    current = settings()
    if listen is not None:
        _listen(current, listen)
    elif textfile is not None:
        from forecache.base.files import write_durably

        write_durably(textfile, batch_page(current).encode())
    else:
        click.echo(batch_page(current), nl=False)


def _listen(current: Settings, address: str) -> None:
    from forecache.plugins.exporter.batch_page import batch_page, create_export_server

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"--listen {address} is no address.", remedy="Give HOST:PORT, such as 127.0.0.1:9464.")
    try:
        server = create_export_server(host, int(port), lambda: batch_page(current))
    except OSError as error:
        raise InputError(f"Nothing can listen at {address}: {error.strerror}.", remedy="Choose another port.") from None
    click.echo(f"Metrics are at http://{host}:{server.server_address[1]}/metrics.", err=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
