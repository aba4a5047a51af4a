"""A release that is killed anywhere leaves the earlier one or the new one, whole; two writers lose nothing."""

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from release_jobs import move_until, pull_until, release_often, release_until
from release_support import make_release, move_state
from rollout_support import begin, two_releases
from warm import start

from forecache.base.errors import ForecacheError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import PULL_STEPS, RELEASE_STEPS, STATE_STEPS
from forecache.kit.versioned.pointer import read_pointer
from forecache.realtime.release.folder import ReleaseFolder, lock_releases, open_releases, read_files, read_release
from forecache.realtime.release.follow_lake import follow_lake, read_lake_state
from forecache.realtime.release.lake_state import end_rollout
from forecache.realtime.release.load import load_release
from forecache.realtime.release.replicas import pull_releases, push_releases
from forecache.realtime.release.rollout_state import RolloutState, read_rollout, running_rollout

pytestmark = [pytest.mark.faults, pytest.mark.slow]
STEPS = RELEASE_STEPS
KEPT = 10


def contents(folder: ReleaseFolder, number: int) -> dict[str, bytes]:
    """Every file of a release by name."""
    place = folder.release(number)
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def killed(target: Callable[..., None], settings: Settings, *when: object) -> None:
    process = start(target, settings.home_path, *when)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def after(step: str, other: str) -> bool:
    return STEPS.index(step) >= STEPS.index(other)


def whole(folder: ReleaseFolder) -> set[int]:
    """The numbers of all releases that are there, each with every byte as it says itself."""
    for number in folder.numbers():
        release = read_release(folder, number)
        assert release.number == number
        assert set(contents(folder, number)) == {*release.files, "release.json"}
        read_files(folder.release(number), release.files)
    return set(folder.numbers())


@pytest.mark.parametrize("step", STEPS)
def test_a_release_killed_at_any_step_is_there_whole_or_not_at_all(settings: Settings, step: str) -> None:
    make_release(settings)
    folder = open_releases(settings, "ranking")
    before = contents(folder, 1)
    killed(release_until, settings, step)
    assert whole(folder) == ({1, 2} if after(step, "moved") else {1})
    state = read_lake_state(settings, "ranking")
    assert state is not None
    assert read_pointer(folder).current == state.pointer.current == 1
    assert sorted(state.inputs) == ([1, 2] if after(step, "added") else [1])
    load_release(folder, 1).close()
    written = make_release(settings, version=3)  # the next writer clears up
    assert written.number == (3 if after(step, "numbered") else 2)
    assert read_pointer(folder).current == written.number
    assert list(folder.staging.iterdir()) == []
    assert written.number in whole(folder)
    assert contents(folder, 1) == before


@pytest.mark.parametrize("step", ["locked", *STATE_STEPS])
@pytest.mark.parametrize("number", [1, 3])
def test_a_pointer_killed_at_any_step_of_its_move_has_moved_or_has_not(
    settings: Settings, number: int, step: str
) -> None:
    for version in (1, 2, 3):
        make_release(settings, version=version, current=version < 3)
    begin_third(settings)
    folder, before, moved = open_releases(settings, "ranking"), (2, ()), (1, (2, 3)) if number == 1 else (3, ())
    killed(move_until, settings, number, step)
    pointer = read_pointer(folder)
    has_moved = step in ("pointer moved", "copied", "retired")
    assert (pointer.current, pointer.bad) == (moved if has_moved else before)
    assert running_rollout(read_rollout(folder), pointer) is None or not has_moved
    with lock_releases(folder, action="test"):
        state = follow_lake(settings, folder)
    pointer = read_pointer(folder)
    assert (pointer.current, pointer.bad) == (before if step == "locked" else moved)
    assert (state.pointer.current, state.pointer.bad) == (pointer.current, pointer.bad)
    assert read_rollout(folder) == state.rollout
    assert whole(folder) == {1, 2, 3}


def begin_third(settings: Settings) -> None:
    """The rollout of release 3 beside release 2."""
    begin(settings)
    move_state(settings, "ranking", lambda state: replace(state, rollout=third(state.rollout)))


def third(rollout: RolloutState | None) -> RolloutState:
    assert rollout is not None
    return replace(rollout, release=3, current=2, stage="canary", share=0.5)


@pytest.mark.parametrize("step", PULL_STEPS)
def test_a_pull_killed_at_any_step_is_finished_by_the_next(settings: Settings, tmp_path: Path, step: str) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    here, there = open_releases(settings, "ranking"), open_releases(replica, "ranking")
    make_release(settings)
    push_releases(here, remote)
    pull_releases(there, remote)
    make_release(settings, version=2)
    push_releases(here, remote)
    killed(pull_until, replica, str(tmp_path / "remote"), step)
    assert read_pointer(there).current == (2 if step in ("pointer moved", "retired") else 1)
    whole(there)
    pull_releases(there, remote)
    assert read_pointer(there).current == 2
    assert contents(there, 2) == contents(here, 2)


@pytest.mark.parametrize("step", ["pointer moved", "retired"])
def test_a_pull_that_is_killed_as_a_candidate_takes_over_rolls_nothing_out_and_is_finished_by_the_next(
    settings: Settings, tmp_path: Path, step: str
) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    here, there = open_releases(settings, "ranking"), open_releases(replica, "ranking")
    two_releases(settings)
    state = begin(settings, stage="canary", share=0.5)
    push_releases(here, remote)
    pull_releases(there, remote)
    before = read_rollout(there)
    assert before is not None
    assert running_rollout(before, read_pointer(there)) == before
    assert state.stage == "canary"
    move_state(settings, "ranking", lambda known: end_rollout(known, "passed", "It is good."))
    push_releases(here, remote)
    killed(pull_until, replica, str(tmp_path / "remote"), step)
    assert (read_pointer(there).current, whole(there)) == (2, {1, 2})
    assert read_rollout(there) == (read_rollout(here) if step == "retired" else before)
    assert running_rollout(read_rollout(there), read_pointer(there)) is None
    pull_releases(there, remote)
    assert read_rollout(there) == read_rollout(here)


def test_a_pull_killed_between_two_releases_of_one_number_is_finished_by_the_next(
    settings: Settings, tmp_path: Path
) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    here, there = open_releases(settings, "ranking"), open_releases(replica, "ranking")
    make_release(settings)
    push_releases(here, remote)
    pull_releases(there, remote)
    shutil.rmtree(here.root)
    shutil.rmtree(settings.lake_uri)
    make_release(settings, version=9)
    push_releases(here, remote)
    killed(pull_until, replica, str(tmp_path / "remote"), "set aside")
    assert (read_pointer(there).current, whole(there)) == (1, set())
    assert pull_releases(there, remote)["moved"]
    assert contents(there, 1) == contents(here, 1)
    assert list(there.staging.iterdir()) == []


def test_two_writers_at_once_give_every_release_a_number_of_its_own(settings: Settings) -> None:
    processes = [start(release_often, settings.home_path, first, 6) for first in (1, 101)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    folder = open_releases(settings, "ranking")
    pointer = read_pointer(folder)
    assert (pointer.current, pointer.last, pointer.generation) == (12, 12, 24)
    assert whole(folder) == set(range(3, 13))  # the newest ten
    versions = [read_release(folder, number).model.version for number in folder.numbers()]
    assert len(set(versions)) == len(versions)


def test_a_reader_that_looks_all_the_time_sees_whole_releases_only(settings: Settings) -> None:
    make_release(settings)
    folder, seen, made = open_releases(settings, "ranking"), set[int](), 1
    while len(seen) <= 2:  # this process may have to wait for longer than all releases take
        process = start(release_often, settings.home_path, made + 1, 15)
        made += 15
        while process.is_alive():
            number = read_pointer(folder).current
            assert number is not None
            try:
                release = read_release(folder, number)
                read_files(folder.release(number), release.files)
            except (ForecacheError, OSError):
                assert (read_pointer(folder).current or 0) >= number + KEPT  # it was removed meanwhile, as it has to be
            else:
                seen.add(number)
        assert process.exitcode == 0


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"current": 1', b'"current": 2'))


def test_a_pointer_that_was_changed_is_noticed(settings: Settings) -> None:
    from forecache.base.errors import DamagedError

    make_release(settings)
    folder = open_releases(settings, "ranking")
    damage(folder.pointer)
    assert read_pointer(folder).current == 1  # as its copy says
    damage(folder.pointer_copy)
    with pytest.raises(DamagedError, match="The pointer of the releases of ranking is damaged"):
        read_pointer(folder)


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("open('exploded', 'w')",)


@pytest.mark.parametrize("runtime", ["onnx", "lightgbm", "xgboost", "sklearn", "skops", "torch", "function", "pyfunc"])
def test_a_pickle_in_the_place_of_a_model_is_never_executed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    import pickle

    from forecache.realtime.release.folder import write_release

    make_release(settings)
    folder = open_releases(settings, "ranking")
    release = read_release(folder, 1)
    model = replace(release.model, spec=replace(release.model.spec, runtime=runtime))
    code = {
        name.removeprefix("code/"): content for name, content in contents(folder, 1).items() if name.startswith("code/")
    }
    monkeypatch.chdir(tmp_path)
    write_release(folder, replace(release, model=model), number=2, model=pickle.dumps(Bomb()), code=code)
    with pytest.raises(Exception):  # noqa: B017  (each library has its own error for what is no model of it)
        load_release(folder, 2)
    assert not (tmp_path / "exploded").exists()


def test_releases_of_a_store_that_began_anew_take_the_place_of_the_old(settings: Settings, tmp_path: Path) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    here, there = open_releases(settings, "ranking"), open_releases(replica, "ranking")
    make_release(settings)
    push_releases(here, remote)
    pull_releases(there, remote)
    generation = read_pointer(there).generation
    shutil.rmtree(here.root)
    shutil.rmtree(settings.lake_uri)
    make_release(settings, version=9)
    push_releases(here, remote)
    assert pull_releases(there, remote)["moved"]
    assert contents(there, 1) == contents(here, 1)
    assert read_pointer(there).generation > generation
