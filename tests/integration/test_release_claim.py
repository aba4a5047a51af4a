"""One home over a lake releases a model: who is refused, what the others see, and what a take-over takes along."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asked_project.pipelines.payments import payments

from forecache.cli.commands import rollouts as commands
from forecache.cli.main import main
from forecache.errors import ConflictError, DamagedError, NotEverywhereError
from forecache.folders import LocalFolder
from forecache.operations.release import release, roll_release_back
from forecache.operations.rollout import ownership
from forecache.operations.rollout.controller import by_hand, look, running_rollouts
from forecache.operations.rollout.ownership import OwnerUnknownError, claim_of
from forecache.pipeline import Log, Rollout
from forecache.realtime.release.claim import home_of, move_claim, own_claim, read_claim, show_rollout
from forecache.realtime.release.folder import ReleaseFolder, open_releases, read_current, read_files, read_release
from forecache.realtime.release.replicas import pull_releases
from forecache.realtime.rollout.state import (
    RolloutState,
    read_rollout,
    rollout_file,
    rollout_from_json,
    rollout_to_json,
)
from forecache.settings import Settings, load_settings

FIRST = replace(
    payments,
    log=Log("household_id"),
    rollout=Rollout(shares=(0.5,), shadow_share=0.0, requests=100, hours=0.0),
)
SECOND = replace(FIRST, deadline_ms=20.0)


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Settings, Settings]:
    """Two homes over one lake, with one remote."""
    shared = {"lake": str(tmp_path / "lake"), "store_remote": str(tmp_path / "remote")}
    return load_settings(home=tmp_path / "a", **shared), load_settings(home=tmp_path / "b", **shared)


@pytest.fixture
def begun(homes: tuple[Settings, Settings]) -> tuple[Settings, Settings]:
    """The first home rolls release 2 out."""
    release(homes[0], FIRST)
    release(homes[0], SECOND)
    return homes


def folder_of(settings: Settings) -> ReleaseFolder:
    return open_releases(settings, "payments")


def state_of(settings: Settings) -> RolloutState:
    state = read_rollout(folder_of(settings))
    assert state is not None
    return state


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def claim_file(settings: Settings) -> Path:
    return Path(settings.lake_uri) / ".realtime/payments/CLAIM"


def test_another_home_is_refused_whatever_it_would_change_and_told_who_releases(
    begun: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, other = begun
    remote, lake = files_of(Path(ours.store_remote)), claim_file(ours).read_bytes()
    since = json.loads(lake)["since"][:19]
    said = f"payments is released by the home with the store folder {ours.store_path} on .+, since {since}Z. Do it"
    with pytest.raises(ConflictError, match=said):
        release(other, FIRST)
    with pytest.raises(ConflictError, match="`forecache release payments --take-over`"):
        roll_release_back(other, "payments")
    assert folder_of(other).numbers() == []
    pull_releases(folder_of(other), LocalFolder(Path(ours.store_remote)))
    with pytest.raises(ConflictError, match="another home's, and was pulled"):
        by_hand(other, "payments", "finish", "")
    before = state_of(other)
    assert running_rollouts(other, ["payments"]) == []
    found = look(other, "payments")
    assert found is not None
    assert (found.moved, state_of(other)) == (False, before)
    for name, value in (("HOME", other.home_path), ("LAKE", other.lake_uri)):
        monkeypatch.setenv(f"FORECACHE_{name}", str(value))
    assert main(["push", "payments", "--remote", other.store_remote]) == ConflictError.exit_code
    assert "payments is released by" in capsys.readouterr().err
    assert (files_of(Path(ours.store_remote)), claim_file(ours).read_bytes()) == (remote, lake)
    assert release(ours, SECOND).details["rollout"] == "under way"


def test_any_home_over_the_lake_sees_where_the_rollout_stands(
    begun: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, other = begun
    for name, value in (("HOME", other.home_path), ("LAKE", other.lake_uri)):
        monkeypatch.setenv(f"FORECACHE_{name}", str(value))
    assert main(["releases", "payments"]) == 0
    assert "Its rollout: release 2, aa at 0.5 of the keys, since" in capsys.readouterr().out
    look(ours, "payments")
    assert main(["releases", "payments"]) == 0
    assert "without requests nothing moves on" in capsys.readouterr().out
    by_hand(ours, "payments", "pause", "a sale")
    assert main(["releases", "payments", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["path"], row["state"]) == (str(ours.store_path), ["released elsewhere"])
    state = state_of(ours)
    assert row["rollout"] == {
        "release": 2, "current": 1, "stage": "aa", "share": 0.5, "since": state.step.since, "verdict": "waits",
        "paused": True, "why": "a sale",
    }  # fmt: skip
    by_hand(ours, "payments", "return", "complaints")
    assert main(["releases", "payments"]) == 0
    assert "release 2, returned, since" in capsys.readouterr().out


def test_a_take_over_goes_on_from_the_remote_and_the_other_home_stops(begun: tuple[Settings, Settings]) -> None:
    ours, other = begun
    before = state_of(ours)
    taken = release(other, SECOND, take_over=True)
    assert (taken.details["release"], taken.details["rollout"]) == (2, "under way")
    assert replace(state_of(other), home=before.home, generation=before.generation) == before
    assert state_of(other).home == home_of(folder_of(other)) != before.home
    for number in (1, 2):
        there = read_release(folder_of(other), number)
        assert there.to_json() == read_release(folder_of(ours), number).to_json()
        read_files(folder_of(other).release(number), there.files)

    found = look(ours, "payments")
    assert found is not None
    assert (found.moved, found.state.paused, found.state.stage) == (True, True, "aa")
    assert f"payments was taken over by the home with the store folder {other.store_path}" in found.state.why
    again = look(ours, "payments")
    assert again is not None
    assert (again.moved, again.state) == (False, found.state)
    for refused in (
        lambda: by_hand(ours, "payments", "resume", ""),
        lambda: release(ours, replace(FIRST, deadline_ms=9)),
    ):
        with pytest.raises(ConflictError, match="payments is released by"):
            refused()
    assert folder_of(ours).numbers() == [1, 2]

    assert running_rollouts(other, ["payments"]) == ["payments"]
    remote, target = LocalFolder(Path(ours.store_remote)), ".realtime/payments/ROLLOUT"
    late = rollout_to_json(replace(before, generation=99, share=0.1))
    remote.write(target, late)  # by a push that had asked for the claim before it moved
    look(other, "payments")
    there = remote.read(target)
    assert there is not None
    assert rollout_from_json(there[0], what="") == state_of(other)
    by_hand(other, "payments", "finish", "")
    pull_releases(folder_of(ours), remote)
    assert (read_current(folder_of(ours)).current, state_of(ours)) == (2, state_of(other))
    assert running_rollouts(ours, ["payments"]) == []
    assert release(ours, FIRST, take_over=True).details["release"] == 1
    with pytest.raises(ConflictError):
        release(other, SECOND)


def test_a_home_that_is_gone_is_taken_over_with_its_releases(begun: tuple[Settings, Settings]) -> None:
    ours, _ = begun
    claimed = claim_of(ours, "payments")
    for path in sorted(ours.store_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(ConflictError, match="--take-over"):
        release(ours, SECOND)
    assert release(ours, SECOND, take_over=True).details["rollout"] == "under way"
    assert folder_of(ours).numbers() == [1, 2]
    found = claim_of(ours, "payments")
    assert claimed is not None
    assert found is not None
    assert found.home not in ("", claimed.home)


def test_without_the_lake_nothing_moves_on_and_a_candidate_can_still_be_returned(
    begun: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, _ = begun
    lake, remote = Path(ours.lake_uri), files_of(Path(ours.store_remote))
    lake.rename(lake.with_name("away"))
    lake.write_text("no folder")
    before = rollout_file(folder_of(ours)).read_bytes()
    for refused in (
        lambda: look(ours, "payments"),
        lambda: by_hand(ours, "payments", "finish", ""),
        lambda: ownership.own(ours, folder_of(ours)),
        lambda: ownership.take_over(ours, folder_of(ours)),
    ):
        with pytest.raises(OwnerUnknownError, match="could not be asked which home releases payments"):
            refused()
    assert rollout_file(folder_of(ours)).read_bytes() == before
    monkeypatch.setenv("FORECACHE_HOME", str(ours.home_path))
    monkeypatch.setenv("FORECACHE_LAKE", ours.lake_uri)
    assert main(["releases", "payments"]) == 0
    shown = capsys.readouterr().out
    assert "A/A at 0.5 of the keys" in shown
    assert "could not be asked which home releases payments" in shown
    with pytest.raises(NotEverywhereError, match="could not be asked"):
        by_hand(ours, "payments", "return", "complaints")
    assert (state_of(ours).stage, read_current(folder_of(ours)).bad) == ("returned", (2,))
    assert files_of(Path(ours.store_remote)) == remote  # no proof that it is this home's to change
    lake.unlink()
    lake.with_name("away").rename(lake)
    assert running_rollouts(ours, ["payments"]) == ["payments"]
    look(ours, "payments")
    assert running_rollouts(ours, ["payments"]) == []
    claim = claim_of(ours, "payments")
    assert claim is not None
    assert claim.rollout is not None
    assert claim.rollout["stage"] == "returned"
    assert files_of(Path(ours.store_remote)) != remote


def test_a_watch_goes_on_when_the_lake_answers_again(
    begun: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, _ = begun
    lake = Path(ours.lake_uri)
    lake.rename(lake.with_name("away"))
    lake.write_text("no folder")

    def mended(_: float) -> None:
        lake.unlink()
        lake.with_name("away").rename(lake)
        by_hand(ours, "payments", "pause", "seen")

    monkeypatch.setattr(commands.time, "sleep", mended)
    state = commands.watch(ours, "payments", every_s=0.1)
    assert state is not None
    assert (state.paused, state.why) == (True, "seen")
    assert "could not be asked" in capsys.readouterr().err


def test_a_bucket_that_cannot_be_reached_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_PATIENCE_S", 0.2)
    options = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "secret-word",
    }  # fmt: skip
    nowhere = load_settings(home=tmp_path / "home", lake="s3://nowhere/lake", storage_options=options)
    with pytest.raises(OwnerUnknownError, match="The lake s3://nowhere/lake could not be asked") as caught:
        ownership.own(nowhere, folder_of(nowhere))
    assert "secret-word" not in str(caught.value)


def test_a_claim_that_is_gone_or_damaged_stops_the_controller_and_says_how_to_go_on(
    begun: tuple[Settings, Settings],
) -> None:
    ours, other = begun
    claim_file(ours).write_text("{}")
    for refused in (lambda: look(ours, "payments"), lambda: release(ours, SECOND), lambda: release(other, SECOND)):
        with pytest.raises(DamagedError, match="CLAIM has no checksum.+`forecache release payments --take-over`"):
            refused()
    release(ours, SECOND, take_over=True)
    look(ours, "payments")
    claim_file(ours).unlink()
    with pytest.raises(OwnerUnknownError, match="has no claim of payments, so nothing is changed"):
        look(ours, "payments")
    assert not claim_file(ours).exists()
    release(ours, SECOND)
    look(ours, "payments")


class Between(LocalFolder):
    """A lake in which something happens just before the first change that is made through it."""

    def __init__(self, root: Path, then: Any) -> None:
        super().__init__(root)
        self.then = then

    def swap(self, name: str, content: bytes, tag: str | None) -> str | None:
        then, self.then = self.then, None
        if then is not None:
            then()
        return super().swap(name, content, tag)


def test_a_take_over_fails_if_another_home_was_faster_and_not_if_the_owner_wrote_where_it_stands(
    begun: tuple[Settings, Settings], tmp_path: Path
) -> None:
    ours, other = begun
    lake, third = Path(ours.lake_uri), load_settings(home=tmp_path / "c", lake=ours.lake_uri)
    theirs = own_claim(folder_of(third))
    with pytest.raises(
        ConflictError, match=f"taken over meanwhile by the home with the store folder {third.store_path}"
    ):
        move_claim(Between(lake, lambda: move_claim(LocalFolder(lake), theirs)), own_claim(folder_of(other)))
    assert read_claim(LocalFolder(lake), "payments") == theirs

    plain, ours_now = LocalFolder(lake), own_claim(folder_of(other))
    told = {"release": 7}
    moved = move_claim(Between(lake, lambda: show_rollout(plain, "payments", theirs.home, told)), ours_now)
    assert read_claim(plain, "payments") == moved == ours_now
    show_rollout(plain, "payments", theirs.home, told)  # of a home that has lost it
    assert read_claim(plain, "payments") == ours_now
