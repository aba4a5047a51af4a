"""`forecache verify`: read the stores' files and compare them with what was published."""

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show_table, size, wants_json


@command("verify", examples="forecache verify\nforecache verify churn --content --json\nforecache verify --mb-per-s 50")
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
    from forecache.realtime.release.folder import verify_releases
    from forecache.realtime.release.released_models import list_released_models
    from forecache.serve.store.checkup import DamagedStoresError, list_local_stores, verify_stores

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
