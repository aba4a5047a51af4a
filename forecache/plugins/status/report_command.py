"""`forecache report`: a page on one pipeline, feature view, recommender, real-time model or stream."""

import sys
import webbrowser
from pathlib import Path

import click

from forecache.base.files import write_durably
from forecache.cli.base import command, settings
from forecache.cli.output import show


@command(
    "report",
    examples="""
    forecache report churn --open
    forecache report churn --output churn.html
    forecache report churn --version 3 --open
    forecache report churn --json
    """,
)
@click.argument("name", metavar="NAME")
@click.option("--output", help="The file; '-' writes the page to standard output. Default: reports/NAME.html.")
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
@click.option("--key", default="", help="With the answer for this key (or request id) explained.")
@click.option("--version", type=click.IntRange(min=1), help="The report of this version of its model instead.")
@click.option("--in-server", is_flag=True, hidden=True)
def report(name: str, output: str | None, opens: bool, key: str, version: int | None, in_server: bool) -> None:
    """Write a page on NAME: its runs, versions, model, drift, quality, cost and alerts of the last 30 days.

    The server shows the same page at its address /status/NAME.
    """
    from forecache.plugins.status.page.report import render_report
    from forecache.plugins.status.report_document import describe_name, write_model_report

    current = settings()
    if version is None:
        found = describe_name(current, name, key=key)
        content, path = render_report(found, in_server=in_server), current.reports_path / f"{name}.html"
    else:
        path = write_model_report(current, name, version)
        found, content = {"name": name, "version": version}, path.read_bytes()
    if output == "-":
        sys.stdout.buffer.write(content)
        return
    path = Path(output) if output else path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, content)
    if opens:
        webbrowser.open(path.absolute().as_uri())
    show({**found, "path": str(path)}, f"The page on {name} is {path}.")
