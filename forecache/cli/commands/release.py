"""Releases of real-time models: `release build`, `release list`, and the rollback to an earlier release."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from forecache.base.errors import CheckError, DamagedError, NotFoundError
from forecache.base.plugins import find_hooks, load_hook
from forecache.cli.base import command, settings
from forecache.cli.orchestrator import show_in_dagster
from forecache.cli.output import print_json, show, show_table, size, stage_dict, wants_json
from forecache.cli.progress import StageProgress
from forecache.cli.resolve_names import require_release

if TYPE_CHECKING:
    from forecache.base.results import StageResult
    from forecache.base.settings import Settings
    from forecache.declare import Realtime
    from forecache.realtime.release.folder import ReleaseFolder
    from forecache.realtime.release.lake_state import ReleaseState
    from forecache.realtime.release.rollout_state import RolloutState


_NAME = click.argument("name", metavar="NAME")
ASSET = "released_"
"""Prefix of the asset of a real-time model's releases."""


@command(
    "build",
    examples="""
    forecache release build search
    forecache release build search --again
    forecache release build search --watch
    forecache release build search --now
    """,
)
@_NAME
@click.option("--again", is_flag=True, help="Release also what was rolled back, or returned by a rollout.")
@click.option("--now", is_flag=True, help="Let it answer all requests at once, without the rollout that is declared.")
@click.option(
    "--watch", is_flag=True, help="Move its rollout on until it is over, as `forecache release rollouts` does."
)
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    help="Seconds between two looks, with --watch.",
)
def build(name: str, again: bool, now: bool, watch: bool, every: float) -> None:
    """Release the real-time model NAME: champion, transform and feature contracts, which answer requests as one unit.

    Where the current release is of the same model and declaration, nothing is done. Readers on this machine take the
    release up within a second; replicas pull it from the remote, if one is set. Where the declaration has `rollout` and
    `log`, it takes over in steps.

    Any installation over the lake may release a model: the lake has the state of the releases.
    """
    from forecache.declare import load_realtime
    from forecache.operations.release import BEGUN, UNDER_WAY
    from forecache.operations.release import release_model as make

    current = settings()
    declared = load_realtime(current, name)
    with StageProgress() as progress:
        result = make(current, declared, again=again, at_once=now, progress=progress.update)
    number = result.details["release"]
    if "rolled_back" in result.details:
        raise CheckError(
            f"The champion and the declaration of {name} are those of release {number}, which was rolled back.",
            remedy=f"`forecache release build {name} --again` releases them all the same.",
        )
    if not result.skipped:
        show_in_dagster(current, f"{ASSET}{name}", dict(result.details), result=result)
    if wants_json():
        print_json(stage_dict(result))
        return
    click.echo(_result_sentence(current, declared, result))
    if watch and result.details.get("rollout") in (BEGUN, UNDER_WAY):
        _watch(current, name, every)


def _result_sentence(current: "Settings", declared: "Realtime", result: "StageResult") -> str:
    """The result of a release in one or two sentences."""
    from forecache.kit.versioned.pointer import read_pointer
    from forecache.operations.release import BEGUN, UNDER_WAY, immediate_release_reason
    from forecache.realtime.release.folder import open_releases

    model, rollout = result.details["model"], result.details.get("rollout", "")
    of = f"Release {result.details['release']} of {declared.name}"
    what = f"model {model['name']} {model['version']} ({result.details['model_uri']})"
    if rollout == UNDER_WAY:
        return f"{of} is rolled out already: {what}. `forecache release list {declared.name}` shows how far."
    if rollout == BEGUN:
        return (
            f"{of} is rolled out from now on: {what}. `forecache release rollouts`, or Dagster, moves it on; "
            f"`forecache release list {declared.name}` shows how far. {_blind_spot_warning(declared)}"
        ).rstrip()
    if result.skipped:
        done = f"{of} is current already: {what}."
        if declared.rollout is None:
            return done
        folder = open_releases(current, declared.name)
        why = immediate_release_reason(folder, declared, read_pointer(folder).current)
        if why:
            return f"{done} The next release will answer all requests at once, without the rollout: {why}"
        return f"{done} The next release will be rolled out in steps. {_blind_spot_warning(declared)}".rstrip()
    why = f" There is no rollout: {rollout}" if declared.rollout is not None else ""
    return f"{of} answers now: {what}.{why}"


def _blind_spot_warning(declared: "Realtime") -> str:
    return str(load_hook("rollouts", "blind_spot_warning")(declared))


def _watch(current: "Settings", name: str, every_s: float) -> None:
    state = load_hook("rollouts", "watch")(current, name, every_s=every_s)
    if state is not None and state.stage != "done":
        what = "paused" if state.paused else "returned"
        raise CheckError(
            f"The rollout of release {state.release} of {name} is {what}: {state.why}",
            remedy=f"`forecache release list {name}` shows what was compared.",
        )


@command("list", examples="forecache release list search\nforecache release list search --json")
@_NAME
def list_releases(name: str) -> None:
    """List the retained releases of the real-time model NAME, the newest first, and the steps of its rollout.

    The lake tells the state, also what other installations did; while it is away, what is known here is listed.
    """
    found, rollout, problem = find_releases(settings(), name)
    if wants_json():
        under_way = None if rollout is None else asdict(rollout)
        print_json(
            [{**row, "rollout": under_way if rollout and row["release"] == rollout.release else None} for row in found]
        )
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
    for show_rollout in find_hooks("show_rollout") if rollout is not None else ():
        show_rollout(rollout)
    if problem:
        click.echo(f"\nThis is what is known here. {problem}")


def find_releases(current: "Settings", name: str) -> tuple[list[dict[str, Any]], "RolloutState | None", str]:
    """Find a model's releases, the newest first, its last rollout, and the problem if the lake could not be read."""
    from forecache.base.errors import UnavailableError
    from forecache.realtime.release.folder import open_releases
    from forecache.realtime.release.follow_lake import read_local_state
    from forecache.realtime.release.lake_state import read_lake_state

    folder, problem = open_releases(current, name), ""
    try:
        state = read_lake_state(current, name)
    except UnavailableError as error:
        state, problem = None, str(error)
    if state is None:
        require_release(current, name)
        state = read_local_state(folder)
    return _list_releases(folder, state), state.rollout, problem


def roll_release_back(current: "Settings", name: str, number: int | None, reason: str) -> None:
    """Roll back to an earlier release, and print the result."""
    from forecache.operations.release import roll_back_release as go_back

    moved = go_back(current, name, number, reason=reason)
    show_in_dagster(current, f"{ASSET}{name}", {"release": moved.current, "reason": reason})
    show(
        {"name": name, "release": moved.current, "rolled_back": list(moved.bad)},
        f"Rolled back. Release {moved.current} of {name} answers now.",
    )


def release_champion(current: "Settings", name: str, *, at_once: bool = False) -> None:
    """After the champion of a real-time model changed, write a new release of it; do nothing for other pipelines.

    Args:
        at_once: True: without the declared rollout, since the earlier champion did harm.
    """
    from forecache.declare.loading import read_project
    from forecache.operations.release import release_model as make

    declared = read_project(current).realtime.get(name)
    if declared is None:
        return
    result = make(current, declared, at_once=at_once)
    if not result.skipped:
        show_in_dagster(current, f"{ASSET}{name}", dict(result.details), result=result)
    if not wants_json():
        click.echo(_result_sentence(current, declared, result))


def _list_releases(folder: "ReleaseFolder", known: "ReleaseState") -> list[dict[str, Any]]:
    from forecache.realtime.release.folder import read_release

    pointer, rollout = known.pointer, known.running
    found = []
    for number in sorted(
        {*folder.numbers(), *known.inputs, *([pointer.current] if pointer.current else [])}, reverse=True
    ):
        state = ["current"] * (number == pointer.current) + ["rolled back"] * (number in pointer.bad)
        state += ["rolled out"] * (rollout is not None and number == rollout.release)
        row: dict[str, Any] = {"release": number, "model": "", "model_version": None, "runtime": "", "created_at": ""}
        row |= {"size_bytes": 0, "code_version": "", "inputs": "", "state": state, "problem": ""}
        try:
            each = read_release(folder, number)
        except NotFoundError:
            found.append({**row, "inputs": known.inputs.get(number, ""), "problem": "Its files are not here."})
            continue
        except DamagedError as error:
            found.append({**row, "problem": error.message})
            continue
        row |= {"model": each.model.name, "model_version": each.model.version, "runtime": each.model.runtime}
        row |= {"created_at": each.created_at, "code_version": each.code_version, "inputs": each.inputs}
        found.append({**row, "size_bytes": sum(file.size_bytes for file in each.files.values())})
    return found
