"""A pull in the home that releases a model: what that home could not push is not taken back, and replicas get all."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from claim_homes import FIRST, SECOND, claim_file, files_of, folder_of, two_homes

from forecache.base.errors import NotEverywhereError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.operations.release import release_model, roll_back_release
from forecache.plugins.rollouts.controller import apply_manual_action
from forecache.plugins.rollouts.distribute import pull_unless_ahead
from forecache.plugins.rollouts.ownership import take_over
from forecache.realtime.release.folder import read_current
from forecache.realtime.release.remote_conflict import UnpushedChangesError
from forecache.realtime.rollout.rollout_state import read_rollout

Use = Callable[[Settings], None]


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Settings, Settings]:
    return two_homes(tmp_path)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Have commands run in a home."""

    def used(settings: Settings) -> None:
        for name, value in (("HOME", settings.home_path), ("LAKE", settings.lake_uri),
                            ("STORE_REMOTE", settings.store_remote)):  # fmt: skip
            monkeypatch.setenv(f"FORECACHE_{name}", str(value))

    return used


@contextmanager
def away(folder: str) -> Iterator[None]:
    """A remote, or a lake, that cannot be reached."""
    there = Path(folder)
    aside = there.rename(there.with_name(f"{there.name}-away"))
    there.write_text("no folder")
    yield
    there.unlink()
    aside.rename(there)


def held(settings: Settings) -> dict[str, bytes]:
    """All files of a model's releases in a home, but for the lock."""
    return {name: content for name, content in files_of(folder_of(settings).root).items() if name != "LOCK"}


def answers(settings: Settings) -> tuple[Any, ...]:
    """What readers of a home go by."""
    pointer, rollout = read_current(folder_of(settings)), read_rollout(folder_of(settings))
    return pointer.current, pointer.bad, rollout and (rollout.release, rollout.stage, rollout.paused, rollout.home)


def two_current(settings: Settings) -> None:
    release_model(settings, FIRST)
    release_model(settings, SECOND, at_once=True)


def second_rolled_out(settings: Settings) -> None:
    release_model(settings, FIRST)
    release_model(settings, SECOND)


MOVES: dict[str, tuple[Callable[[Settings], object], Callable[[Settings], object]]] = {
    "rollback": (two_current, lambda home: roll_back_release(home, "payments")),
    "return": (second_rolled_out, lambda home: apply_manual_action(home, "payments", "return", "complaints")),
    "pause": (second_rolled_out, lambda home: apply_manual_action(home, "payments", "pause", "seen")),
    "finish": (second_rolled_out, lambda home: apply_manual_action(home, "payments", "finish", "urgent")),
    "release --now": (lambda home: release_model(home, FIRST), lambda home: release_model(home, SECOND, at_once=True)),
    "release": (lambda home: release_model(home, FIRST), lambda home: release_model(home, SECOND)),
}


@pytest.mark.parametrize("names", [["payments"], []])
@pytest.mark.parametrize("move", MOVES)
def test_a_pull_in_the_home_that_releases_takes_nothing_back_that_could_not_be_pushed(
    homes: tuple[Settings, Settings], use: Use, move: str, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ours, replica = homes
    before, moved = MOVES[move]
    before(ours)
    old = answers(ours)
    with away(ours.store_remote), pytest.raises(NotEverywhereError):
        moved(ours)
    new, files, remote = answers(ours), held(ours), files_of(Path(ours.store_remote))
    assert new != old
    use(ours)
    capsys.readouterr()
    assert main(["pull", *names]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert held(ours) == files
    assert "Skipped: This home releases payments" in said
    assert "`forecache push payments`" in said
    assert files_of(Path(ours.store_remote)) == remote
    assert main(["pull", *names, "--json"]) == 0
    assert [list(row) for row in json.loads(capsys.readouterr().out)] == [["pipeline", "skipped"]]

    use(replica)
    assert main(["pull", *names]) == 0
    assert answers(replica) == old
    use(ours)
    assert main(["push", *names]) == 0
    assert main(["pull", *names]) == 0
    assert "This home releases" not in capsys.readouterr().err
    assert held(ours) == files
    use(replica)
    assert main(["pull", *names]) == 0
    assert answers(replica) == new


def test_a_pull_takes_nothing_back_while_the_lake_does_not_say_who_releases(
    homes: tuple[Settings, Settings], use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, replica = homes
    two_current(ours)
    use(replica)
    with away(ours.lake_uri):
        with pytest.raises(NotEverywhereError):
            roll_back_release(ours, "payments")
        assert main(["pull"]) == 0  # a replica needs no lake
        use(ours)
        capsys.readouterr()
        assert main(["pull"]) == 0
        assert "Skipped: This home releases payments" in capsys.readouterr().err
    assert answers(ours) == (1, (2,), None)
    assert answers(replica) == (2, (), None)


class ThenRolledBack(LocalFolder):
    """A remote whose pointer was just read when the home that releases the model goes back, and pushes that."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(Path(settings.store_remote))
        self.settings, self.is_done = settings, False

    def read(self, name: str) -> tuple[bytes, str] | None:
        found = super().read(name)
        if not self.is_done and name.endswith("/CURRENT"):
            self.is_done = True
            roll_back_release(self.settings, "payments")
        return found


def test_a_pull_takes_nothing_back_that_is_done_while_it_runs(homes: tuple[Settings, Settings]) -> None:
    ours, _ = homes
    two_current(ours)
    with pytest.raises(UnpushedChangesError):
        pull_unless_ahead(ours, folder_of(ours), ThenRolledBack(ours))
    assert answers(ours) == (1, (2,), None)
    assert not pull_unless_ahead(ours, folder_of(ours), LocalFolder(Path(ours.store_remote)))["moved"]


def test_a_home_that_took_over_takes_nothing_back_of_what_the_other_home_pushed(
    homes: tuple[Settings, Settings],
) -> None:
    ours, other = homes
    two_current(ours)
    take_over(other, folder_of(other))
    with away(ours.store_remote), pytest.raises(NotEverywhereError):
        roll_back_release(other, "payments", 2)
    remote = LocalFolder(Path(ours.store_remote))
    with pytest.raises(UnpushedChangesError, match="`forecache push payments` brings it to the remote"):
        pull_unless_ahead(other, folder_of(other), remote)
    release_model(other, FIRST)
    pull_unless_ahead(ours, folder_of(ours), remote)  # which has lost it
    assert answers(ours) == answers(other)


def test_a_home_over_another_lake_follows_the_one_that_pushed_last_once_it_has_no_claim(
    homes: tuple[Settings, Settings], tmp_path: Path
) -> None:
    ours, _ = homes
    elsewhere = load_settings(home=tmp_path / "c", lake=str(tmp_path / "other_lake"), store_remote=ours.store_remote)
    two_current(ours)
    release_model(elsewhere, FIRST)
    remote = LocalFolder(Path(ours.store_remote))
    with pytest.raises(UnpushedChangesError):
        pull_unless_ahead(ours, folder_of(ours), remote)
    claim_file(ours).unlink()
    pull_unless_ahead(ours, folder_of(ours), remote)
    assert answers(ours) == answers(elsewhere) == (1, (), None)


def test_a_home_restored_from_a_backup_pulls_what_it_had_pushed_and_no_later_return_is_taken_back(
    homes: tuple[Settings, Settings],
) -> None:
    ours, _ = homes
    release_model(ours, FIRST)
    backup = shutil.copytree(ours.store_path, ours.store_path.with_name("backup"))
    release_model(ours, SECOND, at_once=True)
    roll_back_release(ours, "payments")
    release_model(ours, SECOND, at_once=True, again=True)
    newest = answers(ours)
    shutil.rmtree(ours.store_path)
    backup.rename(ours.store_path)
    assert answers(ours) != newest
    remote = LocalFolder(Path(ours.store_remote))
    assert pull_unless_ahead(ours, folder_of(ours), remote)["moved"]
    assert answers(ours) == newest
    assert not pull_unless_ahead(ours, folder_of(ours), remote)["moved"]
    with away(ours.store_remote), pytest.raises(NotEverywhereError):
        roll_back_release(ours, "payments")
    with pytest.raises(UnpushedChangesError):
        pull_unless_ahead(ours, folder_of(ours), remote)
    shutil.rmtree(folder_of(ours).root)  # nothing is here then that could be taken back
    assert pull_unless_ahead(ours, folder_of(ours), remote)["moved"]
    assert answers(ours) == newest
