"""A damaged claim: going back to an earlier release is done all the same, nothing moves on until it is replaced."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claim_homes import FIRST, SECOND, begin_rollout, claim_file, files_of, folder_of, state_of, two_homes

from forecache.base.errors import DamagedError, NotEverywhereError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings
from forecache.cli.main import main
from forecache.operations.release import release_model, roll_back_release
from forecache.plugins.rollouts.controller import advance_rollout, apply_manual_action
from forecache.plugins.rollouts.ownership import claim_of
from forecache.realtime.release.claim import installation_of
from forecache.realtime.release.folder import pointer_from_json, read_current
from forecache.realtime.release.replicas import pull_releases


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Settings, Settings]:
    """The first of two homes rolls release 2 out."""
    homes = two_homes(tmp_path)
    begin_rollout(homes[0])
    return homes


def damage(settings: Settings) -> bytes:
    """Leave half of the claim, as a tool does that is killed while it copies; returns what is there."""
    half = claim_file(settings).read_bytes()[:100]
    claim_file(settings).write_bytes(half)
    return half


def goes_back(act: Callable[[], object], caplog: pytest.LogCaptureFixture) -> None:
    """It is done here, with one warning, and the remote is not told, as nothing proves that it is this home's."""
    caplog.clear()
    with pytest.raises(
        NotEverywhereError, match=r"done here, but not in every replica of payments: The claim \S+CLAIM"
    ):
        act()
    [warning] = [each for each in caplog.records if each.levelname == "WARNING" and each.name == "forecache.rollout"]
    assert re.fullmatch(
        r"The claim \S+/\.realtime/payments/CLAIM is damaged: its checksum does not match its bytes\. It is done here "
        r"all the same\. .+ `forecache release payments --take-over` replaces it\.",
        warning.getMessage(),
    )


def remote_pointer(settings: Settings) -> Any:
    return pointer_from_json((Path(settings.store_remote) / ".realtime/payments/CURRENT").read_bytes(), what="")


def test_with_a_damaged_claim_going_back_is_done_with_one_warning_and_nothing_moves_on(
    begun: tuple[Settings, Settings], caplog: pytest.LogCaptureFixture
) -> None:
    ours, other = begun
    half, remote = damage(ours), files_of(Path(ours.store_remote))
    goes_back(lambda: apply_manual_action(ours, "payments", "pause", "seen"), caplog)
    assert state_of(ours).paused
    goes_back(lambda: roll_back_release(ours, "payments"), caplog)  # returns what is rolled out
    assert (state_of(ours).stage, read_current(folder_of(ours)).current) == ("returned", 1)
    assert read_current(folder_of(ours)).bad == (2,)
    goes_back(lambda: roll_back_release(ours, "payments", 1), caplog)
    for refused in (
        lambda: roll_back_release(ours, "payments", 2),  # which is later than the current one
        lambda: apply_manual_action(ours, "payments", "resume", ""),
        lambda: apply_manual_action(ours, "payments", "finish", ""),
        lambda: release_model(ours, SECOND, again=True),
        lambda: release_model(other, FIRST),
        lambda: advance_rollout(ours, "payments"),
    ):
        with pytest.raises(DamagedError, match="CLAIM is damaged.+`forecache release payments --take-over` replaces"):
            refused()
    assert read_current(folder_of(ours)).current == 1
    assert (claim_file(ours).read_bytes(), files_of(Path(ours.store_remote))) == (half, remote)


def test_commands_without_a_remote_succeed_with_one_line_about_the_damaged_claim(
    begun: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    ours, _ = begun
    damage(ours)
    for name, value in (("HOME", ours.home_path), ("LAKE", ours.lake_uri)):
        monkeypatch.setenv(f"FORECACHE_{name}", str(value))
    for command in (
        ["rollout", "pause", "payments"],
        ["rollout", "return", "payments"],
        ["rollback", "payments", "--to", "1"],
    ):
        caplog.clear()
        assert main(command) == 0
        assert [each.getMessage().count("--take-over") for each in caplog.records] == [1]
    capsys.readouterr()
    assert main(["releases", "payments"]) == 0
    assert "`forecache release payments --take-over` replaces it" in " ".join(capsys.readouterr().out.split())
    assert main(["rollouts", "--once"]) == DamagedError.exit_code
    assert "--take-over" in capsys.readouterr().err


def test_a_take_over_after_going_back_keeps_that_and_brings_it_to_the_remote(
    begun: tuple[Settings, Settings], caplog: pytest.LogCaptureFixture
) -> None:
    ours, other = begun
    damage(ours)
    goes_back(lambda: apply_manual_action(ours, "payments", "return", "complaints"), caplog)
    assert release_model(ours, SECOND, take_over=True).details["rolled_back"] == 2
    assert (state_of(ours).stage, read_current(folder_of(ours)).bad) == ("returned", (2,))
    assert (remote_pointer(ours).current, remote_pointer(ours).bad) == (1, (2,))
    pull_releases(folder_of(other), LocalFolder(Path(ours.store_remote)))
    assert (state_of(other), read_current(folder_of(other)).bad) == (state_of(ours), (2,))
    claim = claim_of(ours, "payments")
    assert claim is not None
    assert (claim.home, claim.rollout and claim.rollout["stage"]) == (installation_of(folder_of(ours)), "returned")


def test_two_homes_go_back_at_once_and_one_that_did_not_push_last_goes_on_from_the_remote(
    begun: tuple[Settings, Settings], caplog: pytest.LogCaptureFixture
) -> None:
    ours, other = begun
    remote = LocalFolder(Path(ours.store_remote))
    pull_releases(folder_of(other), remote)  # both releases, as both answer
    apply_manual_action(ours, "payments", "finish", "")
    pull_releases(folder_of(other), remote)
    damage(ours)
    for home in (ours, other):
        goes_back(lambda home=home: roll_back_release(home, "payments", 1), caplog)  # type: ignore[misc]
        assert (read_current(folder_of(home)).current, read_current(folder_of(home)).bad) == (1, (2,))
    release_model(other, SECOND, take_over=True)
    assert read_current(folder_of(other)).current == remote_pointer(ours).current == 2
    assert roll_back_release(other, "payments").current == remote_pointer(ours).current == 1
    assert read_current(folder_of(ours)).current == 1

    damage(ours)
    release_model(ours, SECOND, take_over=True)
    assert read_current(folder_of(ours)).bad == remote_pointer(ours).bad == (2,)
    assert remote_pointer(ours).home == installation_of(folder_of(ours)) != installation_of(folder_of(other))
