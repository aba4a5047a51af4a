"""Write the folder of a BentoML service for a release."""

import shutil
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import click

from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.cli.base import command, settings
from forecache.cli.output import print_json, wants_json
from forecache.cli.resolve_names import require_release
from forecache.kit.versioned.pointer import read_pointer
from forecache.realtime.release.folder import ReleaseFolder, open_releases, read_release
from forecache.realtime.release.format import Release
from forecache.realtime.release.load import NATIVE, load_release
from forecache.serve.store import open_store

SERVICE, REQUIREMENTS, BENTOFILE = "service.py", "requirements.txt", "bentofile.yaml"
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime",), "lightgbm": ("lightgbm",), "xgboost": ("xgboost-cpu", "xgboost"),
    "sklearn": ("scikit-learn",), "skops": ("scikit-learn", "skops"), "torch": ("torch",),
}  # fmt: skip
"""Packages that a runtime needs beside `forecache[realtime]`; pinned to the versions installed here."""
_HEAD = "# Written by `forecache release bento`: it is replaced when that is run again.\n"


def write_bento(settings: Settings, name: str, folder: Path, *, number: int | None = None) -> Release:
    """Write the service of a release (None: the current one): service.py, bentofile.yaml, requirements.txt, the
    release.

    Raises NotFoundError if there is no such release, InputError if the folder holds something that no earlier call
    wrote, and DamagedError if the release is damaged.
    """
    releases = open_releases(settings, name)
    number = number or read_pointer(releases).current
    if number is None:
        raise NotFoundError(f"{name} has no release yet.", remedy=f"Make one: `forecache release build {name}`.")
    release = read_release(releases, number)
    service = folder / SERVICE
    is_ours = service.is_file() and service.read_text().startswith(_HEAD)
    if folder.exists() and any(folder.iterdir()) and not is_ours:
        raise InputError(
            f"The folder {folder} holds something that `forecache release bento` did not write.",
            remedy="Name another one.",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        _write_files(made, releases, release)
        if folder.exists():
            folder.rename(Path(scratch) / "former")
        made.rename(folder)
    return release


def missing_views(settings: Settings, release: Release) -> list[str]:
    """List the views that a release looks up and that have no version in the store's folder on this machine."""
    views = sorted({lookup.view for lookup in release.lookups})
    return [view for view in views if open_store(settings, view).pointer().serving is None]


def _write_files(folder: Path, releases: ReleaseFolder, release: Release) -> None:
    place = ReleaseFolder(folder / release.name).release(release.number)
    shutil.copytree(releases.release(release.number), place)
    load_release(ReleaseFolder(folder / release.name), release.number).close()
    (folder / SERVICE).write_text(_HEAD + _service(release))
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in _requirements(release)))
    (folder / BENTOFILE).write_text(
        f'{_HEAD}service: "service:{_class_name(release.name)}"\n'
        f'include:\n  - "service.py"\n  - "{release.name}/**"\n'
        f'python:\n  requirements_txt: "./{REQUIREMENTS}"\n  lock_packages: false\n'
    )


def _requirements(release: Release) -> list[str]:
    lines = [f"forecache[realtime]=={metadata.version('forecache')}", "bentoml>=1.4"]
    for package in _PACKAGES.get(release.model.runtime, ()):
        try:
            lines.append(f"{package}=={metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return lines


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _service(release: Release) -> str:
    # A model without Python code of its own is fast and runs on the event loop, another one in a thread.
    define = "async def" if release.model.runtime in NATIVE else "def"
    return f'''"""Release {release.number} of {release.name} as a service of BentoML: `bentoml serve` in this folder.

FORECACHE_STORE names the stores of its feature views; `forecache store pull` keeps them up to date.
"""

from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import InvalidArgument, ServiceUnavailable

from forecache.base.errors import InputError, UnavailableError
from forecache.plugins.protocols.bento_model import BentoModel
from forecache.base.settings import load_settings

RELEASE = Path(__file__).parent / "{release.name}" / "releases" / "{release.number:08d}"


@bentoml.service(name="{release.name}")
class {_class_name(release.name)}:
    def __init__(self) -> None:
        self.model = BentoModel(RELEASE, load_settings().store_path)

    @bentoml.api(route="/v1/{release.name}")
    {define} ask(self, request: dict[str, Any], /) -> dict[str, Any]:
        try:
            return self.model.ask(request)
        except InputError as error:
            raise InvalidArgument(str(error)) from None
        except UnavailableError as error:
            raise ServiceUnavailable(str(error)) from None
'''


@command(
    "bento",
    examples="forecache release bento search\nforecache release bento search services/search --release 3\n"
    "cd bento_search && FORECACHE_STORE=/srv/store bentoml serve",
)
@click.argument("name", metavar="NAME")
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--release", "number", type=click.IntRange(1), help="Number of a release; default: the current one.")
def bento(name: str, folder: Path | None, number: int | None) -> None:
    """Write a BentoML service for a release of a real-time model into FOLDER (default: bento_NAME).

    The service has the same model, transform and feature look-ups. It has no deadline and no fallbacks, and it
    reads stores in the folder FORECACHE_STORE only, none in Redis or in an object store.
    """

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
        from forecache.plugins.protocols.bento_model import missing_views_remedy

        click.echo(f"No version here of {', '.join(missing)}. {missing_views_remedy(*missing)}")
