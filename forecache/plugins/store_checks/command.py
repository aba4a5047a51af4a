"""`forecache store verify` and `forecache store diff`: stores' files against what was published, and two versions."""

from typing import Any

import click

from forecache.cli.base import command, settings
from forecache.cli.commands.store import PIPELINE, open_pipeline_store
from forecache.cli.output import print_json, show, show_table, size, wants_json


@command(
    "verify",
    examples="""
    forecache store verify
    forecache store verify churn --content --json
    forecache store verify --mb-per-s 50
    """,
)
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@click.option("--content", is_flag=True, help="Also look up every key, and compare with the published content hash.")
@click.option("--mb-per-s", type=click.FloatRange(min=1), help="Most megabytes to read per second; default: unlimited.")
@click.pass_context
def verify(context: click.Context, pipelines: tuple[str, ...], content: bool, mb_per_s: float | None) -> None:
    """Read every byte of every retained version and release of PIPELINEs (default: all here); exit 6 if one is damaged.

    Disks and copies lose bits silently. Run this on a schedule to find the damage before a rollback needs that version;
    readers check the versions that they serve themselves.
    """
    from forecache.base.table_names import unknown_name_error
    from forecache.kit.versioned.verify import ReadPace
    from forecache.plugins.store_checks.verify_stores import DamagedStoresError, verify_releases, verify_stores
    from forecache.realtime.release.released_models import list_released_models
    from forecache.serve.store.remote_store import list_local_stores

    pace, current = None if mb_per_s is None else ReadPace(mb_per_s * 1e6), settings()
    models, here = list_released_models(current), [store.pipeline for store in list_local_stores(current)]
    for name in pipelines:
        if name not in models and name not in here:
            raise unknown_name_error(name, "store or release", [*here, *models], where=str(current.store_path))
    released = [name for name in models if not pipelines or name in pipelines]
    stores = [name for name in pipelines if name not in released]
    damaged: DamagedStoresError | None = None
    try:
        found = verify_stores(current, stores, content=content, pace=pace) if stores or not pipelines else []
    except DamagedStoresError as error:
        found = error.found
    found = [*found, *verify_releases(current, released, pace=pace)]
    if any(item.problem for item in found):
        damaged = DamagedStoresError(found)
    if wants_json():
        print_json({"ok": damaged is None, "versions": found})
        context.exit(0 if damaged is None else damaged.exit_code)
    rows = [
        (
            item.pipeline,
            "pointer" if item.version is None else item.version,
            ", ".join(item.state),
            size(item.read_bytes),
            item.problem or "whole",
        )
        for item in found
    ]
    show_table(("pipeline", "version", "state", "read", "found"), rows, right=("version", "read"))
    if damaged is not None:
        raise damaged


@command("diff", examples="forecache store diff churn 16 17\nforecache store diff churn 16 17 --json")
@PIPELINE
@click.argument("before", type=int)
@click.argument("after", type=int)
@click.option("--top", type=click.IntRange(min=0), default=5, show_default=True, help="Keys that moved most to show.")
def diff(pipeline: str, before: int, after: int, top: int) -> None:
    """Show the changes from version BEFORE to version AFTER of PIPELINE: keys, scores, top movers."""
    from forecache.cli.commands.store import live_layer_dict
    from forecache.plugins.store_checks.compare_versions import diff_versions

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
