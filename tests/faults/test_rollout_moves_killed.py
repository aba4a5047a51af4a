"""A move of a rollout that is killed after each file it writes, and what is run then: as if nobody had died.

Each command that follows, in this installation or in another, leaves all disks, the lake and the remote as the
undisturbed move and the command do. Where it is the one that was killed in the middle, it finishes that.
"""

import shutil
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rollout_moves import MOVES, begin_third, held, homes_in, move_until
from two_installations import files_of
from warm import start

from forecache.base.errors import ForecacheError
from forecache.cli.main import main
from forecache.kit.versioned.pointer import read_pointer
from forecache.plugins.rollouts.controller import advance_rollout, running_rollouts
from forecache.realtime.release.folder import open_releases, read_files, read_release
from forecache.realtime.release.lake_state import read_lake_state
from forecache.realtime.release.rollout_state import read_rollout, replicated_fields

pytestmark = [pytest.mark.faults, pytest.mark.slow]
OURS, OTHER = 0, 1


class Homes:
    """Copies of homes in the middle of a rollout, and what moves make of them where nobody dies."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self.begun = folder / "begun"
        begin_third(homes_in(self.begun)[OURS])
        self.killed, self.undisturbed = cache(self._killed), cache(self._undisturbed)

    def copy(self, base: Path) -> Path:
        self._count += 1
        return shutil.copytree(base, self._folder / str(self._count), symlinks=True)

    def _killed(self, home: int, move: str) -> list[Path]:
        """Homes in which a move was killed after its first write, its second one, and so on; to be copied only."""
        found: list[Path] = []
        while True:
            base = self.copy(self.begun)
            process = start(move_until, base, home, move, len(found) + 1)
            process.join(120)
            if process.exitcode == 0:
                assert len(found) > 4
                return found
            assert process.exitcode == -signal.SIGKILL
            found.append(base)

    def _undisturbed(self, moves: tuple[tuple[int, str], ...]) -> tuple[str, dict[str, Any]]:
        base = self.copy(self.begun)
        return [moved(base, *each) for each in moves][-1], ended(base)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    return Homes(tmp_path_factory.mktemp("homes"))


def moved(base: Path, home: int, move: str) -> str:
    """The name of the error that a move ended with, or ""."""
    try:
        MOVES[move](homes_in(base)[home])
    except ForecacheError as error:
        return type(error).__name__
    return ""


def ended(base: Path) -> dict[str, Any]:
    """What all hold once the controllers have looked, the one of the home that moves first."""
    for settings in homes_in(base):
        advance_rollout(settings, "payments")
    return held(base)


def has_moved(base: Path, begun: Path) -> bool:
    """True if the state in the lake is another one, but for a number that was given."""
    states = [read_lake_state(homes_in(each)[OURS], "payments") for each in (base, begun)]
    pointers = [(state.pointer, state.rollout) for state in states if state is not None]
    return pointers[0] != pointers[1]


def is_known_here(base: Path) -> bool:
    """True if the copy has all of the state in the lake."""
    state = read_lake_state(homes_in(base)[OURS], "payments")
    assert state is not None
    return read_rollout(open_releases(homes_in(base)[OURS], "payments")) == state.rollout


@pytest.mark.parametrize("command", ["release", "return", "rollback", "finish"])
@pytest.mark.parametrize("move", ["return", "rollback", "finish"])
def test_what_follows_an_end_that_was_killed_finds_it_done(homes: Homes, move: str, command: str) -> None:
    ends = {"return", "rollback"} if move != "finish" else {"finish"}
    unfinished = 0
    for base in homes.killed(OURS, move):
        has_begun = has_moved(base, homes.begun)
        is_open = has_begun and not is_known_here(base)
        unfinished += is_open
        moves = (move,) if is_open and command in ends else (move, command) if has_begun else (command,)
        error, truth = homes.undisturbed(tuple((OURS, each) for each in moves))
        again = homes.copy(base)
        assert moved(again, OURS, command) == error
        assert ended(again) == truth
        goes_on = not has_begun and command == "release"  # of the candidate that is being rolled out
        assert running_rollouts(homes_in(again)[OURS], ["payments"]) == ["payments"] * goes_on
    assert unfinished


@pytest.mark.parametrize("move", ["return", "finish"])
def test_releases_are_listed_after_an_end_that_was_killed_and_nothing_is_changed(
    homes: Homes, move: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for base in homes.killed(OURS, move):
        settings, before = homes_in(base)[OURS], files_of(base)
        for name, value in (("HOME", settings.home_path), ("LAKE", settings.lake_uri)):
            monkeypatch.setenv(f"FORECACHE_{name}", str(value))
        assert main(["release", "list", "payments"]) == 0
        assert "Rollout: release 3" in capsys.readouterr().out
        assert files_of(base) == before


@pytest.mark.parametrize("command", ["return", "rollback", "next"])
@pytest.mark.parametrize("move", ["return", "finish"])
def test_what_another_installation_does_after_a_move_that_was_killed_goes_on_from_the_lake(
    homes: Homes, move: str, command: str
) -> None:
    begun = []
    for base in homes.killed(OURS, move):
        begun.append(has_moved(base, homes.begun))
        error, truth = homes.undisturbed((((OURS, move),) if begun[-1] else ()) + ((OTHER, command),))
        again = homes.copy(base)
        assert moved(again, OTHER, command) == error
        assert ended(again) == truth
    assert begun
    assert all(begun)  # the first file that is written is the state in the lake


def test_a_release_that_was_killed_is_made_by_another_installation_and_its_number_is_given_once(homes: Homes) -> None:
    numbers = []
    for base in homes.killed(OURS, "next"):
        again = homes.copy(base)
        ours, other = homes_in(again)
        assert moved(again, OTHER, "next") == ""
        ended(again)
        state = read_lake_state(other, "payments")
        assert state is not None
        assert state.running is not None
        numbers.append(state.running.release)
        assert (state.pointer.current, state.pointer.bad, state.pointer.last) == (2, (), numbers[-1])
        assert sorted(state.inputs) == [1, 2, 3, numbers[-1]]
        for settings in (ours, other):
            folder = open_releases(settings, "payments")
            read_files(folder.release(numbers[-1]), read_release(folder, numbers[-1]).files)
            assert replicated_fields(read_rollout(folder)) == replicated_fields(state.rollout)
            assert read_pointer(folder) == replace(state.pointer, generation=read_pointer(folder).generation)
    assert set(numbers) == {4, 5}
