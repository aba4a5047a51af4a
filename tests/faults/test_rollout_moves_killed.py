"""A rollout's end or take-over that is killed after each file it writes, and what is run then: as if nobody had died.

Each command that follows leaves whole homes, lake and remote as the undisturbed move and the command do. Where it is
the one that was killed in the middle, it finishes that.
"""

import shutil
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from claim_homes import files_of
from rollout_moves import MOVES, begin_third, held, homes_in, move_until
from warm import start

from forecache.base.errors import ConflictError, ForecacheError, NotFoundError
from forecache.base.settings import Settings
from forecache.cli.main import main
from forecache.plugins.rollouts.controller import advance_rollout, running_rollouts
from forecache.plugins.rollouts.ownership import claim_of
from forecache.realtime.release.claim import installation_of
from forecache.realtime.release.folder import open_releases, read_current
from forecache.realtime.release.replicas import push_releases
from forecache.realtime.rollout.rollout_state import is_reconciled, read_rollout
from forecache.serve.store.replicas.sync import open_remote

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

    def _undisturbed(self, home: int, moves: tuple[str, ...], without: str = "") -> tuple[str, dict[str, Any]]:
        base = self.copy(self.begun)
        return [moved(base, home, each) for each in moves][-1], ended(base, home, without)


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


def ended(base: Path, home: int, without: str = "") -> dict[str, Any]:
    """What all hold once the controller has looked."""
    settings = homes_in(base)[home]
    if read_rollout(open_releases(settings, "payments")) is not None:
        advance_rollout(settings, "payments")
    return held(base, without=without)


def pointer_and_state(base: Path) -> tuple[Any, Any]:
    """What decides: the pointer's copy alone, which is written first, has begun nothing."""
    folder = open_releases(homes_in(base)[OURS], "payments")
    return read_current(folder), read_rollout(folder)


def is_unfinished(settings: Settings) -> bool:
    folder = open_releases(settings, "payments")
    state = read_rollout(folder)
    assert state is not None
    return not is_reconciled(state, read_current(folder))


@pytest.mark.parametrize("command", ["release", "return", "rollback", "finish"])
@pytest.mark.parametrize("move", ["return", "rollback", "finish"])
def test_what_follows_an_end_that_was_killed_finds_it_done(homes: Homes, move: str, command: str) -> None:
    ends = {"return", "rollback"} if move != "finish" else {"finish"}
    unfinished = 0
    for base in homes.killed(OURS, move):
        is_open = is_unfinished(homes_in(base)[OURS])
        unfinished += is_open
        has_begun = pointer_and_state(base) != pointer_and_state(homes.begun)
        # A candidate that answers all by the pointer alone has no reason with it.
        without = "why" if is_open and move == "finish" else ""
        moves = (move,) if is_open and command in ends else (move, command) if has_begun else (command,)
        error, truth = homes.undisturbed(OURS, moves, without)
        again = homes.copy(base)
        assert moved(again, OURS, command) == error
        assert ended(again, OURS, without) == truth
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
        assert main(["releases", "payments"]) == 0
        assert "Rollout: release 3" in capsys.readouterr().out
        assert files_of(base) == before


@pytest.mark.parametrize("command", ["release", "return", "rollback", "take over"])
def test_what_follows_a_take_over_that_was_killed_is_refused_or_finds_it_done(homes: Homes, command: str) -> None:
    is_done = []
    for base in homes.killed(OTHER, "take over"):
        other = homes_in(base)[OTHER]
        claim = claim_of(other, "payments")
        assert claim is not None
        is_done.append(claim.home == installation_of(open_releases(other, "payments")))
        before, base = held(base), homes.copy(base)
        error = moved(base, OTHER, command)
        if is_done[-1] or command == "take over":
            said, truth = homes.undisturbed(OTHER, ("take over", command))
            assert (error, ended(base, OTHER)) == (said, truth)
        else:
            assert error in (ConflictError.__name__, NotFoundError.__name__)
            after = held(base)
            assert {name: after[name] for name in before} == before
    assert (any(is_done), all(is_done)) == (True, False)


def test_a_home_that_takes_over_marks_a_candidate_whose_return_was_killed_before_that(homes: Homes) -> None:
    base = homes.copy(homes.killed(OURS, "return")[0])
    ours, other = homes_in(base)
    assert is_unfinished(ours)
    push_releases(open_releases(ours, "payments"), open_remote(ours.store_remote, ours.storage_options))
    done = MOVES["take over"](other)
    assert getattr(done, "details", {})["rolled_back"] == 3
    pointer = read_current(open_releases(other, "payments"))
    assert (pointer.current, pointer.bad) == (2, (3,))
