"""What is done in an installation while the lake or the remote is away: it stands, and is brought there once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from followed_lake import answers, away, follow, in_lake, on_remote, shared_lake, unmark
from release_support import make_release, move_state
from rollout_support import NAME, begin, two_releases

from forecache.base.errors import NotEverywhereError, UnreachableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import release_step
from forecache.cli.main import main
from forecache.operations.distribute_release import bring_unsent
from forecache.operations.release import roll_back_release
from forecache.plugins.rollouts.controller import advance_rollout, apply_manual_action, running_rollouts
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.follow_lake import has_unsent
from forecache.realtime.release.lake_state import make_current
from forecache.realtime.release.replicas import push_releases


@pytest.fixture(params=[True, False], ids=["remote", "no remote"])
def homes(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Settings, Settings]:
    return shared_lake(tmp_path, has_remote=request.param)


@pytest.mark.parametrize("action", ["rollback", "return", "pause"])
def test_while_the_lake_is_away_harm_is_stopped_here_and_brought_there_later(
    homes: tuple[Settings, Settings], action: str
) -> None:
    ours, other = homes
    two_releases(ours)
    if action == "rollback":
        move_state(ours, NAME, lambda state: make_current(state, 2, NAME))
    else:
        begin(ours)
    push = ours.store_remote
    if push:
        push_releases(open_releases(ours, NAME), LocalFolder(Path(push)))
    follow(other)
    before = in_lake(ours)
    with away(ours.lake_uri):
        with pytest.raises(NotEverywhereError, match="That is done here, but not in every replica"):
            roll_back_release(ours, NAME) if action == "rollback" else apply_manual_action(ours, NAME, action, "seen")
        new = answers(ours)
        assert new != before
        if push:
            assert on_remote(ours) == before
            with pytest.raises(NotEverywhereError):
                bring_unsent(ours, open_releases(ours, NAME))
            assert answers(ours) == new
        for refused in (
            lambda: advance_rollout(ours, NAME),
            lambda: apply_manual_action(ours, NAME, "finish", ""),
            lambda: make_release(ours, version=9),
        ):
            with pytest.raises(UnreachableError, match="The lake .+ could not be reached for the releases of ranking"):
                refused()
        assert answers(ours) == new
    assert in_lake(ours) == before
    assert running_rollouts(ours, [NAME]) == [NAME]
    advance_rollout(ours, NAME)
    assert in_lake(ours) == answers(ours) == new
    assert not has_unsent(open_releases(ours, NAME))
    follow(other)
    assert answers(other) == new
    if push:
        assert on_remote(ours) == new


@pytest.mark.parametrize("names", [[NAME], []])
@pytest.mark.parametrize("action", ["rollback", "return", "pause", "finish"])
def test_a_pull_takes_nothing_back_that_could_not_be_pushed(
    tmp_path: Path, action: str, names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = tmp_path / "remote"
    ours = load_settings(home=tmp_path / "a", store_remote=str(remote))
    replica = load_settings(home=tmp_path / "replica", store_remote=str(remote))
    two_releases(ours)
    if action == "rollback":
        move_state(ours, NAME, lambda state: make_current(state, 2, NAME))
    else:
        begin(ours)

    def run(settings: Settings, *command: str) -> None:
        for name, value in (("HOME", settings.home_path), ("STORE_REMOTE", settings.store_remote)):
            monkeypatch.setenv(f"FORECACHE_{name}", str(value))
        assert main([*command, *names]) == 0

    run(ours, "store", "push")
    old = answers(ours)
    with away(str(remote)), pytest.raises(NotEverywhereError):
        roll_back_release(ours, NAME) if action == "rollback" else apply_manual_action(ours, NAME, action, "seen")
    new = answers(ours)
    assert new != old
    run(replica, "store", "pull")
    assert answers(replica) == old
    with away(ours.lake_uri):
        run(ours, "store", "pull")
        assert f"Nothing was pulled of {NAME}, to take nothing back" in " ".join(capsys.readouterr().err.split())
    assert answers(ours) == new
    assert on_remote(ours) == old
    run(ours, "store", "pull")
    assert answers(ours) == on_remote(ours) == new
    run(replica, "store", "pull")
    assert answers(replica) == new


def test_what_was_done_elsewhere_meanwhile_stands_unless_it_was_rolled_back_here(
    homes: tuple[Settings, Settings],
) -> None:
    ours, other = homes
    for version in (1, 2, 3):
        make_release(ours, version=version)
    lake = Path(ours.lake_uri)
    with away(ours.lake_uri), pytest.raises(NotEverywhereError):
        roll_back_release(ours, NAME)
    assert make_release(other, version=4).number == 4
    follow(ours)
    assert answers(ours)[:3] == in_lake(ours)[:3] == (4, (3,), 4)
    unreachable = replace_lake(ours, lake.parent / "nowhere")
    with pytest.raises(NotEverywhereError):
        roll_back_release(unreachable, NAME)
    with pytest.raises(NotEverywhereError):
        roll_back_release(unreachable, NAME)
    assert answers(ours)[:2] == (1, (2, 3, 4))
    follow(ours)
    assert in_lake(ours)[:2] == answers(ours)[:2] == (1, (2, 3, 4))
    state = move_state(other, NAME, lambda state: make_current(unmark(state, 4), 4, NAME))
    assert state.pointer.current == 4
    follow(ours)  # what was brought there once is not brought there again
    assert in_lake(ours)[:2] == answers(ours)[:2] == (4, (2, 3))


def replace_lake(settings: Settings, lake: Path) -> Settings:
    lake.write_text("no folder")
    return load_settings(home=settings.home, lake=str(lake), store_remote=settings.store_remote)


@contextmanager
def killed_at(step: str) -> Iterator[None]:
    """End the work of the block at a step, as a kill does."""

    def die(name: str) -> None:
        if name == step:
            raise KeyboardInterrupt

    release_step.on_step = die
    with pytest.raises(KeyboardInterrupt):
        yield
    release_step.on_step = None


@pytest.mark.parametrize("offline", ["kept to be sent", "pointer moved", ""])
@pytest.mark.parametrize("online", ["state moved", "pointer moved", "retired"])
def test_what_was_done_here_is_brought_to_the_lake_once_whatever_is_killed(
    homes: tuple[Settings, Settings], offline: str, online: str
) -> None:
    ours, other = homes
    for version in (1, 2, 3):
        make_release(ours, version=version)
    follow(other)
    with away(ours.lake_uri):
        if offline:
            with killed_at(offline):
                roll_back_release(ours, NAME)
        else:
            with pytest.raises(NotEverywhereError):
                roll_back_release(ours, NAME)
    assert running_rollouts(ours, [NAME]) == [NAME]
    if online == "state moved" or offline == "kept to be sent":  # else the copy here has it already
        with killed_at(online):
            follow(ours)
    assert in_lake(ours)[:2] == ((2, (3,)) if online == "state moved" or offline == "kept to be sent" else (3, ()))
    again = in_lake(ours)[0] == 2
    if again:  # by a person who wants it
        move_state(other, NAME, lambda state: make_current(unmark(state, 3), 3, NAME))
    assert advance_rollout(ours, NAME) is None
    assert in_lake(ours)[:2] == answers(ours)[:2] == ((3, ()) if again else (2, (3,)))
    assert not has_unsent(open_releases(ours, NAME))
