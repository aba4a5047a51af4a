"""The state of releases in the lake, moved by several installations: what each finds, and what meets what."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from followed_lake import answers, away, follow, in_lake, on_remote, shared_lake, whole
from release_support import make_release
from rollout_support import LOG, NAME, begin, state_of, two_releases

from forecache.base.errors import ConflictError, DamagedError, NotFoundError, UnavailableError, UnreachableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.operations.release import roll_back_release
from forecache.plugins.rollouts.controller import advance_rollout, apply_manual_action, running_rollouts
from forecache.realtime.release import follow_lake, lake_state, replicas
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.follow_lake import fetch_missing_releases
from forecache.realtime.release.lake_state import ReleaseState, read_lake_state, swap_state


@pytest.fixture(params=[True, False], ids=["remote", "no remote"])
def homes(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Settings, Settings]:
    return shared_lake(tmp_path, has_remote=request.param)


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


def test_what_keeps_a_release_from_being_fetched_is_raised_only_if_the_release_may_be_there(
    homes: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = homes
    two_releases(ours)
    fetch_missing_releases(other, NAME, [9])
    with away(ours.store_remote or ours.lake_uri), pytest.raises(UnreachableError):
        fetch_missing_releases(other, NAME, [1])
    with monkeypatch.context() as patched:
        for error in (
            OSError(errno.EROFS, "read-only"),
            PermissionError(errno.EACCES, "denied"),
            ConflictError("held"),
        ):
            patched.setattr(follow_lake, "lock_releases", Mock(side_effect=error))
            fetch_missing_releases(other, NAME, [1])
        patched.setattr(follow_lake, "lock_releases", Mock(side_effect=OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            fetch_missing_releases(other, NAME, [1])
    assert not open_releases(other, NAME).numbers()
    fetch_missing_releases(other, NAME, [1])
    whole(other, 1)


def test_a_state_that_is_gone_or_damaged_is_said_and_made_again_by_a_release(homes: tuple[Settings, Settings]) -> None:
    ours, other = homes
    two_releases(ours)
    begin(ours)
    file, before = Path(ours.lake_uri) / f".realtime/{NAME}/STATE", answers(ours)
    file.write_bytes(file.read_bytes()[:100])
    for home in (ours, other):
        with pytest.raises(DamagedError, match=r"STATE is damaged.+Remove it; the next `forecache release build`"):
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
    with pytest.raises(
        UnreachableError, match=r"^s3://nowhere/lake cannot be reached: [\w ]+\. Make sure that [\w ,]+\.$"
    ) as caught:
        make_release(nowhere)
    assert "secret-word" not in str(caught.value)
