"""`forecache metrics`: the glossary of all metrics."""

import click

from forecache.cli.base import command
from forecache.cli.output import print_json, show_table, wants_json


@command("metrics", examples="forecache metrics --glossary\nforecache metrics --json")
@click.option("--glossary", is_flag=True, help="Print every metric as Markdown tables, for a document.")
def metrics(glossary: bool) -> None:
    """List every metric that Forecache exports to Prometheus: name, type, labels, meaning."""
    from forecache.metrics.glossary import all_metrics
    from forecache.metrics.glossary import glossary as text

    if glossary:
        click.echo(text())
        return
    found = list(all_metrics().values())
    if wants_json():
        print_json(found)
        return
    rows = [(metric.name, metric.kind, ", ".join(metric.labels), metric.help) for metric in found]
    show_table(("metric", "type", "labels", "what it is"), rows)
