"""Installations in processes of their own that release, roll back and roll out at once, in a folder and on real S3."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from followed_lake import follow
from release_jobs import release_at_once, roll_back_at_once, step_at_once
from release_support import make_release
from rollout_support import BEGAN, LOG, MINUTE, NAME, begin, log_rows, two_releases
from store_services import minio_server
from warm import processes, start

from forecache.base.settings import Settings, load_settings
from forecache.cli.resolve_names import released_models
from forecache.kit.versioned.pointer import read_pointer
from forecache.operations.release import roll_back_release
from forecache.plugins.rollouts.controller import advance_rollout, apply_manual_action, running_rollouts
from forecache.realtime.release.folder import ReleasePointer, open_releases, read_files, read_release
from forecache.realtime.release.lake_state import read_lake_state
from forecache.realtime.release.replicas import push_releases
from forecache.realtime.release.rollout_state import read_rollout, replicated_fields, rollout_from_json
from forecache.serve.store.remote import open_remote

pytestmark = [pytest.mark.faults, pytest.mark.slow]
HOMES, TIMES = ("a", "b"), 8


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio") / "minio", "cloud") as found:
        yield found


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of a lake and a remote that several installations share."""
    if request.param == "folder":
        return {"lake": str(tmp_path / "lake"), "store_remote": str(tmp_path / "remote")}
    of_test = f"s3://cloud/{tmp_path.name}"
    found = request.getfixturevalue("options")
    return {"lake": f"{of_test}/lake", "store_remote": f"{of_test}/remote", "storage_options": found}


def run_at_once(target: Any, *each: tuple[object, ...]) -> None:
    running = [start(target, *arguments) for arguments in each]
    for process in running:
        process.join(300)
        assert process.exitcode == 0


def check_all_agree(installations: list[Settings]) -> None:
    """Every copy is the state in the lake, and what is kept is whole where all find it."""
    first = installations[0]
    state = read_lake_state(first, NAME)
    assert state is not None
    said = (state.pointer.current, state.pointer.bad, state.pointer.last, replicated_fields(state.rollout))
    remote = open_remote(first.store_remote, first.storage_options)
    for settings in installations:
        follow(settings)
        folder = open_releases(settings, NAME)
        here = read_pointer(folder)
        assert (here.current, here.bad, here.last, replicated_fields(read_rollout(folder))) == said
        for number in filter(None, (here.current, state.running and state.running.release)):
            read_files(folder.release(number), read_release(folder, number).files)  # type: ignore[arg-type]
    push_releases(open_releases(first, NAME), remote, state)
    root = f".realtime/{NAME}"
    there, rollout = remote.read(f"{root}/CURRENT"), remote.read(f"{root}/ROLLOUT")
    assert there is not None
    pointer = ReleasePointer.from_json(there[0], what="")
    shown = None if rollout is None else replicated_fields(rollout_from_json(rollout[0], what=""))
    assert (pointer.current, pointer.bad, pointer.last, shown) == said
    for number in state.inputs:
        assert remote.size(f"{root}/releases/{number:08d}/release.json")


def test_installations_that_release_and_roll_back_at_once_give_no_number_twice_and_end_with_one_state(
    lake: dict[str, Any], tmp_path: Path
) -> None:
    installations = [load_settings(home=tmp_path / name, **lake) for name in HOMES]
    two_releases(installations[0])
    follow(installations[1])
    barrier = processes().Barrier(len(HOMES))
    run_at_once(
        release_at_once,
        *((settings.home_path, lake, barrier, 100 * turn, TIMES) for turn, settings in enumerate(installations, 1)),
    )
    numbers = [number for home in HOMES for number in json.loads((tmp_path / home / "numbers").read_text())]
    state = read_lake_state(installations[0], NAME)
    assert state is not None
    assert state.numbered == 2 + len(HOMES) * TIMES
    assert len(set(numbers)) == len(numbers) >= TIMES
    assert set(numbers) <= set(range(3, state.numbered + 1))
    check_all_agree(installations)


def test_installations_that_roll_back_at_once_go_back_once(lake: dict[str, Any], tmp_path: Path) -> None:
    installations = [load_settings(home=tmp_path / name, **lake) for name in HOMES]
    for version in (1, 2, 3):
        make_release(installations[0], version=version)
    follow(installations[1])
    barrier = processes().Barrier(len(HOMES))
    run_at_once(roll_back_at_once, *((settings.home_path, lake, barrier) for settings in installations))
    state = read_lake_state(installations[0], NAME)
    assert state is not None
    assert (state.pointer.current, state.pointer.bad) == (2, (3,))
    check_all_agree(installations)


def test_controllers_of_two_installations_take_a_step_once(lake: dict[str, Any], tmp_path: Path) -> None:
    installations = [load_settings(home=tmp_path / name, **lake) for name in HOMES]
    two_releases(installations[0])
    begin(installations[0])
    follow(installations[1])
    at = BEGAN + MINUTE
    log_rows(installations[0], 600, at=BEGAN + MINUTE / 60)
    barrier = processes().Barrier(len(HOMES))
    run_at_once(step_at_once, *((settings.home_path, lake, barrier, at.isoformat()) for settings in installations))
    for settings in installations:
        advance_rollout(settings, NAME, at=at)
    state = read_lake_state(installations[0], NAME)
    assert state is not None
    assert state.rollout is not None
    assert [(step.stage, step.verdict) for step in state.rollout.steps] == [("aa", "passed"), ("shadow", "waits")]
    assert sum(state.rollout.steps[0].requests) == 600
    check_all_agree(installations)


def test_machines_with_an_empty_disk_advance_and_return_a_rollout_and_roll_back(
    lake: dict[str, Any], tmp_path: Path
) -> None:
    first, *empty = [load_settings(home=tmp_path / name, **lake) for name in ("a", "b", "c", "d")]
    for version in (1, 2, 3):
        make_release(first, version=version, current=version < 3, log=LOG)
    begin(first, release=3, current=2)
    at = BEGAN + MINUTE
    log_rows(first, 600, at=BEGAN + MINUTE / 60)
    for settings in empty:
        assert released_models(settings) == running_rollouts(settings, [NAME]) == [NAME]
    moved = advance_rollout(empty[0], NAME, at=at)
    assert moved is not None
    assert (moved.moved, moved.state.stage, sum(moved.state.steps[0].requests)) == (True, "shadow", 600)
    assert apply_manual_action(empty[1], NAME, "return", "complaints").stage == "returned"
    assert running_rollouts(empty[2], [NAME]) == []
    assert roll_back_release(empty[2], NAME, 1).current == 1
    state = read_lake_state(first, NAME)
    assert state is not None
    assert (state.pointer.current, state.pointer.bad) == (1, (2, 3))
    check_all_agree([first, *empty])
