"""Check that each real-time model has a release that is undamaged, runs here, and fits the declaration."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.cli.checks import Finding

if TYPE_CHECKING:
    from forecache.declare import Realtime
    from forecache.realtime.release.folder import ReleaseFolder


def check_releases(settings: Settings) -> Finding:
    """Check that each real-time model has a current release that can answer with the declared features."""
    from forecache.declare.loading import read_project
    from forecache.kit.versioned.pointer import read_pointer
    from forecache.realtime.release.folder import open_releases
    from forecache.realtime.release.released_models import list_released_models

    declared = read_project(settings).realtime
    names = sorted({*declared, *list_released_models(settings)})
    if not names:
        return Finding("releases", "ok", "no real-time model")
    current, damaged, missing, differs = [], [], [], []
    for name in names:
        folder = open_releases(settings, name)
        try:
            number = read_pointer(folder).current
            if number is None:
                missing.append(name)
                continue
            differs += list(_describe_differences(folder, number, declared.get(name)))
            current.append(f"{name} {number}")
        except ForecacheError as error:
            damaged.append(f"{name}: {error.message}")
    if damaged:
        remedy = "Release again: `forecache release NAME`; on a replica, `forecache pull --verify`."
        return Finding("releases", "fail", f"{len(damaged)} cannot answer: {' '.join(damaged)}", remedy)
    if differs:
        remedy = "Run `forecache train NAME`, then `forecache release NAME`."
        return Finding("releases", "warn", "; ".join(differs), remedy)
    if missing:
        remedy = "Run `forecache train NAME`; of a model that is not trained here, `forecache run NAME`."
        return Finding("releases", "warn", f"none yet of {', '.join(missing)}", remedy)
    return Finding("releases", "ok", f"current: {', '.join(current)}")


def _describe_differences(folder: "ReleaseFolder", number: int, declared: "Realtime | None") -> Iterator[str]:
    """Describe packages and views that differ from those of a release's training; also verifies its files."""
    from forecache.models.inference.environment import differing_versions
    from forecache.realtime.release.folder import read_files, read_release

    release = read_release(folder, number)
    read_files(folder.release(number), release.files)
    for package, made_with, here in differing_versions(release.model.spec.packages):
        yield f"release {number} of {folder.name} was made with {package} {made_with}, and here it is {here}"
    now = {each.called: each.view.packed.contract for each in declared.lookups} if declared else {}
    for lookup in release.lookups:
        if now.get(lookup.called, lookup.contract) != lookup.contract:
            yield f"the view {lookup.view} has changed since release {number} of {folder.name} was trained"
