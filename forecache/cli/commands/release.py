"""Releases of real-time models: `release`, `releases`, and the part of `rollback` that goes back to one."""

from typing import TYPE_CHECKING, Any

import click

from forecache.cli.base import command, settings
from forecache.cli.by_hand import show_in_dagster
from forecache.cli.output import print_json, show_table, size, stage_dict, wants_json
from forecache.cli.progress import StageProgress
from forecache.errors import CheckError, DamagedError, NotFoundError

if TYPE_CHECKING:
    from forecache.realtime.release.folder import ReleaseFolder
    from forecache.settings import Settings

_NAME = click.argument("name", metavar="NAME")
ASSET = "released_"
"""What the asset of a real-time model's releases is called, before its name."""


@command("release", examples="forecache release search\nforecache release search --again")
@_NAME
@click.option("--again", is_flag=True, help="Also where the same was rolled back.")
def release(name: str, again: bool) -> None:
    """Release the real-time model NAME: champion, transform and feature contracts, which answer requests as one unit.

    Nothing is done where the current release is of the same model and declaration. Readers here take it up within a
    second; with a remote, replicas pull it.
    """
    from forecache.operations.release import release as make
    from forecache.pipeline import load_realtime

    current = settings()
    declared = load_realtime(current, name)
    with StageProgress() as progress:
        result = make(current, declared, again=again, progress=progress.update)
    number = result.details["release"]
    if "rolled_back" in result.details:
        raise CheckError(
            f"The champion and the declaration of {name} are those of release {number}, which was rolled back.",
            remedy=f"`forecache release {name} --again` releases them all the same.",
        )
    if not result.skipped:
        show_in_dagster(current, f"{ASSET}{name}", dict(result.details), result=result)
    if wants_json():
        print_json(stage_dict(result))
        return
    model, made = result.details["model"], "is current already" if result.skipped else "answers now"
    click.echo(f"Release {number} of {name} {made}: model {model['name']} {model['version']}.")


@command("releases", examples="forecache releases search\nforecache releases search --json")
@_NAME
def releases(name: str) -> None:
    """List the retained releases of the real-time model NAME, the newest first."""
    found = _listed(_folder(settings(), name))
    if wants_json():
        print_json(found)
        return
    rows = [
        (
            row["release"],
            f"{row['model']} {row['model_version']}" if row["model"] else row["problem"],
            row["runtime"],
            row["created_at"],
            size(row["size_bytes"]),
            ", ".join(row["state"]),
        )
        for row in found
    ]
    show_table(("release", "model", "runtime", "made", "size", "state"), rows, right=("release", "size"))


def is_released(current: "Settings", name: str) -> bool:
    """Whether a name is that of a real-time model with a release here."""
    from forecache.realtime.release.folder import open_releases

    return bool(open_releases(current, name).numbers())


def roll_release_back(current: "Settings", name: str, number: int | None, reason: str) -> None:
    """Go back to an earlier release, and say so."""
    from forecache.operations.release import roll_release_back as go_back

    moved = go_back(current, name, number)
    show_in_dagster(current, f"{ASSET}{name}", {"release": moved.current, "reason": reason})
    if wants_json():
        print_json({"name": name, "release": moved.current, "rolled_back": list(moved.bad)})
    else:
        click.echo(f"Rolled back. Release {moved.current} of {name} answers now.")


def release_champion(current: "Settings", name: str) -> None:
    """Release the champion, which has moved, where it is that of a real-time model."""
    from forecache.operations.release import release as make
    from forecache.pipeline.loading import read_project

    declared = read_project(current).realtime.get(name)
    if declared is None:
        return
    result = make(current, declared)
    number = result.details["release"]
    if not result.skipped:
        show_in_dagster(current, f"{ASSET}{name}", dict(result.details), result=result)
    if not wants_json():
        click.echo(f"Release {number} of {name} answers now.")


def _folder(current: "Settings", name: str) -> "ReleaseFolder":
    from forecache.pipeline import load_realtime
    from forecache.realtime.release.folder import open_releases

    folder = open_releases(current, name)
    if not folder.numbers():
        load_realtime(current, name)
        raise NotFoundError(f"Nothing is released of {name}.", remedy=f"Run `forecache release {name}`.")
    return folder


def _listed(folder: "ReleaseFolder") -> list[dict[str, Any]]:
    from forecache.realtime.release.folder import read_current, read_release

    pointer = read_current(folder)
    found = []
    for number in reversed(folder.numbers()):
        state = ["current"] * (number == pointer.current) + ["rolled back"] * (number in pointer.bad)
        row: dict[str, Any] = {"release": number, "model": "", "model_version": None, "runtime": "", "created_at": ""}
        row |= {"size_bytes": 0, "code_version": "", "inputs": "", "state": state, "problem": ""}
        try:
            each = read_release(folder, number)
        except DamagedError as error:
            found.append({**row, "problem": error.message})
            continue
        row |= {"model": each.model.name, "model_version": each.model.version, "runtime": each.model.runtime}
        row |= {"created_at": each.created_at, "code_version": each.code_version, "inputs": each.inputs}
        found.append({**row, "size_bytes": sum(file.size_bytes for file in each.files.values())})
    return found
