"""The state of releases in the lake, moved by several installations: what each finds, and what meets what."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from release_support import make_release, move_state
from rollout_support import LOG, NAME, begin, state_of, two_releases

from forecache.base.errors import ConflictError, DamagedError, NotEverywhereError, NotFoundError, UnavailableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import release_step
from forecache.cli.main import main
from forecache.operations.distribute_release import bring_unsent
from forecache.operations.release import roll_back_release
from forecache.plugins.rollouts.controller import advance_rollout, apply_manual_action, running_rollouts
from forecache.realtime.release import lake_state, replicas
from forecache.realtime.release.folder import open_releases, pointer_from_json, read_current, read_files, read_release
from forecache.realtime.release.follow_lake import follow_lake, has_unsent, read_lake_state
from forecache.realtime.release.lake_state import ReleaseState, UnreachableError, make_current, swap_state
from forecache.realtime.release.replicas import push_releases
from forecache.realtime.release.write import lock_releases
from forecache.realtime.rollout.rollout_state import read_rollout, replicated_fields, rollout_from_json


@pytest.fixture(params=["remote", "no remote"])
def homes(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Settings, Settings]:
    """Two installations over one lake; without a remote, the files of the releases are in the lake."""
    remote = str(tmp_path / "remote") if request.param == "remote" else ""
    shared = {"lake": str(tmp_path / "lake"), "store_remote": remote}
    return load_settings(home=tmp_path / "a", **shared), load_settings(home=tmp_path / "b", **shared)


@contextmanager
def away(folder: str) -> Iterator[None]:
    """A lake that cannot be reached."""
    there = Path(folder)
    aside = there.rename(there.with_name(f"{there.name}-away"))
    there.write_text("no folder")
    yield
    there.unlink()
    aside.rename(there)


def answers(settings: Settings) -> tuple[Any, ...]:
    """What readers of an installation go by."""
    folder = open_releases(settings, NAME)
    pointer = read_current(folder)
    return pointer.current, pointer.bad, pointer.last, replicated_fields(read_rollout(folder))


def in_lake(settings: Settings) -> tuple[Any, ...]:
    state = read_lake_state(settings, NAME)
    assert state is not None
    return state.pointer.current, state.pointer.bad, state.pointer.last, replicated_fields(state.rollout)


def on_remote(settings: Settings) -> tuple[Any, ...]:
    root = Path(settings.store_remote) / ".realtime" / NAME
    pointer = pointer_from_json((root / "CURRENT").read_bytes(), what="")
    rollout = rollout_from_json((root / "ROLLOUT").read_bytes(), what="") if (root / "ROLLOUT").exists() else None
    return pointer.current, pointer.bad, pointer.last, replicated_fields(rollout)


def follow(settings: Settings) -> ReleaseState:
    folder = open_releases(settings, NAME)
    with lock_releases(folder, action="test"):
        return follow_lake(settings, folder)


def whole(settings: Settings, *numbers: int) -> None:
    folder = open_releases(settings, NAME)
    for number in numbers:
        read_files(folder.release(number), read_release(folder, number).files)


def test_another_installation_goes_on_with_what_the_first_has_made(homes: tuple[Settings, Settings]) -> None:
    ours, other = homes
    two_releases(ours)
    begin(ours)
    assert follow(other).pointer.current == 1
    whole(other, 1, 2)
    assert answers(other) == answers(ours) == in_lake(ours)
    assert make_release(other, version=3, log=LOG).number == 3
    assert answers(other)[:3] == (3, (), 3)
    assert state_of(other).why == "Release 3 was made current meanwhile."
    assert roll_back_release(other, NAME).current == 2
    assert answers(other)[:2] == (2, (3,))
    whole(other, 2)
    follow(ours)
    make_release(other, version=4, log=LOG)
    with pytest.raises(ConflictError, match="Release 4 of ranking has become current meanwhile; nothing was changed"):
        roll_back_release(ours, NAME, 1)
    assert answers(ours) == answers(other) == in_lake(ours)
    assert roll_back_release(other, NAME).current == 2
    assert roll_back_release(ours, NAME).current == 2
    assert roll_back_release(ours, NAME).current == 1
    assert answers(ours) == in_lake(ours)
    if ours.store_remote:
        assert on_remote(ours) == in_lake(ours) == answers(ours)


def test_what_was_rolled_back_elsewhere_is_rolled_back_no_further(homes: tuple[Settings, Settings]) -> None:
    ours, other = homes
    for version in (1, 2, 3):
        make_release(ours, version=version)
    follow(other)
    assert roll_back_release(ours, NAME).current == 2
    assert roll_back_release(other, NAME).current == 2
    assert answers(ours) == answers(other) == (2, (3,), 3, None)
    assert roll_back_release(other, NAME).current == 1


@pytest.mark.parametrize("action", ["return", "finish", "pause"])
def test_a_rollout_is_moved_from_any_installation_and_each_follows(
    homes: tuple[Settings, Settings], action: str
) -> None:
    ours, other = homes
    two_releases(ours)
    begin(ours)
    apply_manual_action(other, NAME, action, "seen")
    assert running_rollouts(ours, [NAME]) == [NAME]
    found = advance_rollout(ours, NAME)
    assert found is not None
    assert (found.moved, found.state.why) == (True, "seen")
    assert answers(ours) == answers(other) == in_lake(ours)
    assert running_rollouts(ours, [NAME]) == ([NAME] if action == "pause" else [])
    if action != "pause":
        with pytest.raises(NotFoundError, match="No rollout of ranking is under way"):
            apply_manual_action(ours, NAME, action, "")


def test_an_empty_disk_has_all_again_from_the_lake(homes: tuple[Settings, Settings]) -> None:
    import shutil

    ours, _ = homes
    two_releases(ours)
    begin(ours)
    before = answers(ours)
    shutil.rmtree(ours.store_path)
    assert running_rollouts(ours, [NAME]) == [NAME]
    found = advance_rollout(ours, NAME)
    assert found is not None
    assert answers(ours) == before
    whole(ours, 1, 2)


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

    def run(settings: Settings, command: str) -> None:
        for name, value in (("HOME", settings.home_path), ("STORE_REMOTE", settings.store_remote)):
            monkeypatch.setenv(f"FORECACHE_{name}", str(value))
        assert main([command, *names]) == 0

    run(ours, "push")
    old = answers(ours)
    with away(str(remote)), pytest.raises(NotEverywhereError):
        roll_back_release(ours, NAME) if action == "rollback" else apply_manual_action(ours, NAME, action, "seen")
    new = answers(ours)
    assert new != old
    run(replica, "pull")
    assert answers(replica) == old
    with away(ours.lake_uri):
        run(ours, "pull")
        assert f"Nothing was pulled of {NAME}, to take nothing back" in " ".join(capsys.readouterr().err.split())
    assert answers(ours) == new
    assert on_remote(ours) == old
    run(ours, "pull")
    assert answers(ours) == on_remote(ours) == new
    run(replica, "pull")
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


def replace_lake(settings: Settings, lake: Path) -> Settings:
    lake.write_text("no folder")
    return load_settings(home=settings.home, lake=str(lake), store_remote=settings.store_remote)


def unmark(state: ReleaseState, number: int) -> ReleaseState:
    bad = tuple(each for each in state.pointer.bad if each != number)
    return replace(state, pointer=replace(state.pointer, bad=bad))


def test_a_state_that_is_gone_or_damaged_is_said_and_made_again_by_a_release(homes: tuple[Settings, Settings]) -> None:
    ours, other = homes
    two_releases(ours)
    begin(ours)
    file, before = Path(ours.lake_uri) / f".realtime/{NAME}/STATE", answers(ours)
    file.write_bytes(file.read_bytes()[:100])
    for home in (ours, other):
        with pytest.raises(DamagedError, match=r"STATE is damaged.+Remove it; the next `forecache release`"):
            advance_rollout(home, NAME)
    file.unlink()
    with pytest.raises(UnavailableError, match="has no releases of ranking, so nothing is changed"):
        advance_rollout(ours, NAME)
    assert not file.exists()
    assert make_release(ours, version=3, current=False).number == 3
    assert in_lake(ours) == (*before[:2], 3, before[3])
    follow(other)
    whole(other, 1, 2)
    assert answers(other) == in_lake(ours)


class Interrupted(LocalFolder):
    """A lake in which something happens just before the first write through it, or whose answer to it is lost."""

    def __init__(self, root: Path, then: Any, *, is_lost: bool = False) -> None:
        super().__init__(root)
        self.then, self.is_lost = then, is_lost

    def swap(self, name: str, content: bytes, tag: str | None) -> str | None:
        then, self.then = self.then, None
        if then is not None:
            then()
        done = super().swap(name, content, tag)
        if self.is_lost:
            self.is_lost = False
            return None
        return done


def test_a_number_is_given_once_and_a_lost_answer_to_a_write_is_known(homes: tuple[Settings, Settings]) -> None:
    ours, other = homes
    make_release(ours)
    calls: list[int] = []

    def number(state: ReleaseState) -> ReleaseState:
        calls.append(state.numbered)
        return replace(state, numbered=state.numbered + 1)

    lake = Path(ours.lake_uri)
    second = Interrupted(lake, lambda: make_release(other, version=2))
    assert swap_state(second, NAME, number, begin=ReleaseState, floor=0).numbered == 3
    assert calls == [1, 2]
    lost = Interrupted(lake, None, is_lost=True)
    assert swap_state(lost, NAME, number, begin=ReleaseState, floor=0).numbered == 4
    assert calls == [1, 2, 3]
    assert make_release(ours, version=3).number == 5


def test_of_two_equal_releases_at_once_one_is_taken(homes: tuple[Settings, Settings]) -> None:
    ours, other = homes
    make_release(ours)
    made: list[int] = []
    honest = replicas.upload_release

    def upload(*arguments: Any) -> Any:
        if not made:
            made.append(0)
            made[0] = make_release(other, version=2, inputs="the same").number
        return honest(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forecache.realtime.release.follow_lake.upload_release", upload)
        assert make_release(ours, version=2, inputs="the same").number == made[0] == 3
    state = read_lake_state(ours, NAME)
    assert state is not None
    assert (sorted(state.inputs), state.pointer.current) == ([1, 3], 3)
    assert answers(ours) == answers(other)


def test_the_newest_ten_and_the_current_are_kept_where_all_find_them(homes: tuple[Settings, Settings]) -> None:
    ours, _ = homes
    make_release(ours)
    for version in range(2, 15):
        make_release(ours, version=version, current=False)
    state = read_lake_state(ours, NAME)
    assert state is not None
    assert sorted(state.inputs) == [1, *range(5, 15)]
    origin = Path(ours.store_remote or ours.lake_uri) / ".realtime" / NAME / "releases"
    assert sorted(int(file.parent.name) for file in origin.rglob("release.json")) == [1, *range(5, 15)]
    with pytest.raises(ConflictError, match="Later releases of ranking than 3 were made meanwhile"):
        lake_state.add_release(state, 3, "late", NAME)


def test_a_bucket_that_cannot_be_reached_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_state, "_PATIENCE_S", 0.2)
    options = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "secret-word",
    }  # fmt: skip
    nowhere = load_settings(home=tmp_path / "home", lake="s3://nowhere/lake", storage_options=options)
    with pytest.raises(UnreachableError, match="The lake s3://nowhere/lake could not be reached") as caught:
        make_release(nowhere)
    assert "secret-word" not in str(caught.value)
