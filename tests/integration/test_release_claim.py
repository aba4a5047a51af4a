"""One home over a lake releases a model: who is refused, what the others see, and what a take-over takes along."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from claim_homes import FIRST, SECOND, begin_rollout, claim_file, files_of, folder_of, state_of, two_homes

from forecache.base.errors import ConflictError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings
from forecache.cli.main import main
from forecache.operations.release import release_model, roll_back_release
from forecache.plugins.rollouts.controller import advance_rollout, apply_manual_action, running_rollouts
from forecache.plugins.rollouts.ownership import claim_of
from forecache.realtime.release.claim import installation_of
from forecache.realtime.release.folder import read_current, read_files, read_release
from forecache.realtime.release.replicas import pull_releases
from forecache.realtime.rollout.rollout_state import (
    rollout_from_json,
    rollout_to_json,
)


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Settings, Settings]:
    return two_homes(tmp_path)


@pytest.fixture
def begun(homes: tuple[Settings, Settings]) -> tuple[Settings, Settings]:
    """The first home rolls release 2 out."""
    begin_rollout(homes[0])
    return homes


def test_another_home_is_refused_whatever_it_would_change_and_told_who_releases(
    begun: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, other = begun
    remote, lake = files_of(Path(ours.store_remote)), claim_file(ours).read_bytes()
    since = json.loads(lake)["since"][:19]
    said = f"payments is released by the home with the store folder {ours.store_path} on .+, since {since}Z. Do it"
    with pytest.raises(ConflictError, match=said):
        release_model(other, FIRST)
    with pytest.raises(ConflictError, match="`forecache release payments --take-over`"):
        roll_back_release(other, "payments")
    assert folder_of(other).numbers() == []
    pull_releases(folder_of(other), LocalFolder(Path(ours.store_remote)))
    with pytest.raises(ConflictError, match="another home's, and was pulled"):
        apply_manual_action(other, "payments", "finish", "")
    before = state_of(other)
    assert running_rollouts(other, ["payments"]) == []
    found = advance_rollout(other, "payments")
    assert found is not None
    assert (found.moved, state_of(other)) == (False, before)
    for name, value in (("HOME", other.home_path), ("LAKE", other.lake_uri)):
        monkeypatch.setenv(f"FORECACHE_{name}", str(value))
    assert main(["push", "payments", "--remote", other.store_remote]) == ConflictError.exit_code
    assert "payments is released by" in capsys.readouterr().err
    assert (files_of(Path(ours.store_remote)), claim_file(ours).read_bytes()) == (remote, lake)
    assert release_model(ours, SECOND).details["rollout"] == "under way"


def test_any_home_over_the_lake_sees_where_the_rollout_stands(
    begun: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, other = begun
    for name, value in (("HOME", other.home_path), ("LAKE", other.lake_uri)):
        monkeypatch.setenv(f"FORECACHE_{name}", str(value))
    assert main(["releases", "payments"]) == 0
    assert "Its rollout: release 2, aa at 0.5 of the keys, since" in capsys.readouterr().out
    advance_rollout(ours, "payments")
    assert main(["releases", "payments"]) == 0
    assert "without requests nothing moves on" in capsys.readouterr().out
    apply_manual_action(ours, "payments", "pause", "a sale")
    assert main(["releases", "payments", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["path"], row["state"]) == (str(ours.store_path), ["released elsewhere"])
    state = state_of(ours)
    assert row["rollout"] == {
        "release": 2, "current": 1, "stage": "aa", "share": 0.5, "since": state.step.since, "verdict": "waits",
        "paused": True, "why": "a sale",
    }  # fmt: skip
    apply_manual_action(ours, "payments", "return", "complaints")
    assert main(["releases", "payments"]) == 0
    assert "release 2, returned, since" in capsys.readouterr().out


def test_a_take_over_goes_on_from_the_remote_and_the_other_home_stops(begun: tuple[Settings, Settings]) -> None:
    ours, other = begun
    before = state_of(ours)
    taken = release_model(other, SECOND, take_over=True)
    assert (taken.details["release"], taken.details["rollout"]) == (2, "under way")
    assert replace(state_of(other), home=before.home, generation=before.generation) == before
    assert state_of(other).home == installation_of(folder_of(other)) != before.home
    for number in (1, 2):
        there = read_release(folder_of(other), number)
        assert there.to_json() == read_release(folder_of(ours), number).to_json()
        read_files(folder_of(other).release(number), there.files)

    found = advance_rollout(ours, "payments")
    assert found is not None
    assert (found.moved, found.state.paused, found.state.stage) == (True, True, "aa")
    assert f"payments was taken over by the home with the store folder {other.store_path}" in found.state.why
    again = advance_rollout(ours, "payments")
    assert again is not None
    assert (again.moved, again.state) == (False, found.state)
    for refused in (
        lambda: apply_manual_action(ours, "payments", "resume", ""),
        lambda: release_model(ours, replace(FIRST, deadline_ms=9)),
    ):
        with pytest.raises(ConflictError, match="payments is released by"):
            refused()
    assert folder_of(ours).numbers() == [1, 2]

    assert running_rollouts(other, ["payments"]) == ["payments"]
    remote, target = LocalFolder(Path(ours.store_remote)), ".realtime/payments/ROLLOUT"
    late = rollout_to_json(replace(before, generation=99, share=0.1))
    remote.write(target, late)  # by a push that had asked for the claim before it moved
    advance_rollout(other, "payments")
    there = remote.read(target)
    assert there is not None
    assert rollout_from_json(there[0], what="") == state_of(other)
    apply_manual_action(other, "payments", "finish", "")
    pull_releases(folder_of(ours), remote)
    assert (read_current(folder_of(ours)).current, state_of(ours)) == (2, state_of(other))
    assert running_rollouts(ours, ["payments"]) == []
    assert release_model(ours, FIRST, take_over=True).details["release"] == 1
    with pytest.raises(ConflictError):
        release_model(other, SECOND)


def test_a_take_over_rolls_nothing_out_again_that_the_other_home_returned(begun: tuple[Settings, Settings]) -> None:
    ours, other = begun
    apply_manual_action(ours, "payments", "return", "complaints")
    assert release_model(other, SECOND, take_over=True).details["rolled_back"] == 2
    assert (read_current(folder_of(other)).current, read_current(folder_of(other)).bad) == (1, (2,))
    again = release_model(other, SECOND, again=True)
    assert (again.details["release"], again.details["rollout"]) == (3, "begun")


def test_a_home_that_is_gone_is_taken_over_with_its_releases(begun: tuple[Settings, Settings]) -> None:
    ours, _ = begun
    claimed = claim_of(ours, "payments")
    for path in sorted(ours.store_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(ConflictError, match="--take-over"):
        release_model(ours, SECOND)
    assert release_model(ours, SECOND, take_over=True).details["rollout"] == "under way"
    assert folder_of(ours).numbers() == [1, 2]
    found = claim_of(ours, "payments")
    assert claimed is not None
    assert found is not None
    assert found.home not in ("", claimed.home)
