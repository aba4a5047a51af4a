"""`forecache bento`: a release as a service of BentoML."""

from pathlib import Path

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, wants_json


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

    The service has the same model, transform and feature look-ups. It has no deadline and no fallback ladder.
    """
    from forecache.realtime.bento.write import write_bento

    folder = folder or Path(f"bento_{name}")
    release = write_bento(settings(), name, folder, number=number)
    if wants_json():
        print_json({"name": release.name, "release": release.number, "folder": str(folder)})
        return
    click.echo(f"Release {release.number} of {release.name} is a BentoML service in {folder}.")
    click.echo(f"Serve it: cd {folder} && FORECACHE_STORE={settings().store_path} bentoml serve")
