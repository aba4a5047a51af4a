"""`forecache bento`: write a BentoML service for a release."""

from pathlib import Path

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, wants_json
from forecache.cli.resolve_names import require_release


@command(
    "bento",
    examples="forecache bento search\nforecache bento search services/search --release 3\n"
    "cd bento_search && FORECACHE_STORE=/srv/store bentoml serve",
)
@click.argument("name", metavar="NAME")
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--release", "number", type=click.IntRange(1), help="Number of a release; default: the current one.")
def bento(name: str, folder: Path | None, number: int | None) -> None:
    """Write a BentoML service for a release of a real-time model into FOLDER (default: bento_NAME).

    The service has the same model, transform and feature look-ups. It has no deadline and no fallback ladder, and it
    reads stores in the folder FORECACHE_STORE only, none in Redis or in an object store.
    """
    from forecache.plugins.protocols.bento.write import missing_views, write_bento

    require_release(settings(), name)
    folder = folder or Path(f"bento_{name}")
    release = write_bento(settings(), name, folder, number=number)
    missing = missing_views(settings(), release)
    if wants_json():
        told = {"name": release.name, "release": release.number, "folder": str(folder), "views_not_here": missing}
        print_json(told)
        return
    click.echo(f"Release {release.number} of {release.name} is a BentoML service in {folder}.")
    click.echo(f"Serve it: cd {folder} && FORECACHE_STORE={settings().store_path} bentoml serve")
    if missing:
        from forecache.plugins.protocols.bento.model import missing_views_remedy

        click.echo(f"No version here of {', '.join(missing)}. {missing_views_remedy(*missing)}")
