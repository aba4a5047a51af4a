"""`forecache diff`: what changed between two published versions."""

from typing import Any

import click

from forecache.cli.base import command
from forecache.cli.commands.store import PIPELINE, open_pipeline_store
from forecache.cli.output import show, show_table


@command("diff", examples="forecache diff churn 16 17\nforecache diff churn 16 17 --json")
@PIPELINE
@click.argument("before", type=int)
@click.argument("after", type=int)
@click.option("--top", type=click.IntRange(min=0), default=5, show_default=True, help="Keys that moved most to show.")
def diff(pipeline: str, before: int, after: int, top: int) -> None:
    """Show the changes from version BEFORE to version AFTER of PIPELINE: keys, scores, top movers."""
    from forecache.cli.live_rows import live_layer_dict
    from forecache.serve.store.compare_versions import diff_versions

    store = open_pipeline_store(pipeline)
    found = diff_versions(store, before, after, top=top)
    live = live_layer_dict(store, store.manifest(before), store.manifest(after))
    if live is not None:
        found["live"] = live
    show(found, lambda: _show_diff(pipeline, found))


def _show_diff(pipeline: str, found: dict[str, Any]) -> None:
    sides = [
        f"version {side['version']} (as of {side['as_of']}"
        + (f", model {side['model']['version']}" if side["model"] else "")
        + f", {side['rows']:,} keys)"
        for side in (found["before"], found["after"])
    ]
    click.echo(f"{pipeline}: {sides[0]} -> {sides[1]}")
    counts = ("changed", "added", "removed", "unchanged", "provenance_only")
    show_table(("keys", "number"), [(name.replace("_", " "), found[name]) for name in counts], right=("number",))
    figures = ("changed", "mean_before", "mean_after", "mean_absolute_change", "largest_change", "shift")
    rows = [(name, *(change.get(figure) for figure in figures)) for name, change in found["fields"].items()]
    show_table(("field", *(figure.replace("_", " ") for figure in figures)), rows)
    if found["top_movers"]:
        movers = [(m["key"], m["field"], m["before"], m["after"], m["change"]) for m in found["top_movers"]]
        show_table(("moved most", "field", "before", "after", "change"), movers, right=("before", "after", "change"))
    if "live" in found:
        above = [
            f"{count:,} keys have a row above version {version}" for version, count in found["live"]["above"].items()
        ]
        click.echo(f"Not in these versions: of the live layer of {found['live']['stream']}, {' and '.join(above)}.")
