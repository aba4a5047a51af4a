"""The claim of a model where the lake is away, the claim is gone or damaged, or two homes take over at once."""

from pathlib import Path
from typing import Any

import pytest
from claim_homes import SECOND, begin_rollout, claim_file, files_of, folder_of, state_of, two_homes

from forecache.base.errors import ConflictError, DamagedError, NotEverywhereError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.operations.release import release_model
from forecache.plugins.rollouts import command as commands
from forecache.plugins.rollouts import ownership
from forecache.plugins.rollouts.controller import advance_rollout, apply_manual_action, running_rollouts
from forecache.plugins.rollouts.ownership import OwnerUnknownError, claim_of
from forecache.realtime.release.claim import move_claim, new_claim, read_claim, record_rollout
from forecache.realtime.release.folder import read_current
from forecache.realtime.rollout.rollout_state import (
    rollout_file,
)


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Settings, Settings]:
    return two_homes(tmp_path)


@pytest.fixture
def begun(homes: tuple[Settings, Settings]) -> tuple[Settings, Settings]:
    """The first home rolls release 2 out."""
    begin_rollout(homes[0])
    return homes


def test_without_the_lake_nothing_moves_on_and_a_candidate_can_still_be_returned(
    begun: tuple[Settings, Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, _ = begun
    lake, remote = Path(ours.lake_uri), files_of(Path(ours.store_remote))
    lake.rename(lake.with_name("away"))
    lake.write_text("no folder")
    before = rollout_file(folder_of(ours)).read_bytes()
    for refused in (
        lambda: advance_rollout(ours, "payments"),
        lambda: apply_manual_action(ours, "payments", "finish", ""),
        lambda: ownership.claim_ownership(ours, folder_of(ours)),
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
        apply_manual_action(ours, "payments", "return", "complaints")
    assert (state_of(ours).stage, read_current(folder_of(ours)).bad) == ("returned", (2,))
    assert files_of(Path(ours.store_remote)) == remote  # no proof that it is this home's to change
    lake.unlink()
    lake.with_name("away").rename(lake)
    assert running_rollouts(ours, ["payments"]) == ["payments"]
    advance_rollout(ours, "payments")
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
        apply_manual_action(ours, "payments", "pause", "seen")

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
        ownership.claim_ownership(nowhere, folder_of(nowhere))
    assert "secret-word" not in str(caught.value)


def test_a_claim_that_is_gone_or_damaged_stops_the_controller_and_says_how_to_go_on(
    begun: tuple[Settings, Settings],
) -> None:
    ours, other = begun
    claim_file(ours).write_text("{}")
    for refused in (
        lambda: advance_rollout(ours, "payments"),
        lambda: release_model(ours, SECOND),
        lambda: release_model(other, SECOND),
    ):
        with pytest.raises(DamagedError, match="CLAIM has no checksum.+`forecache release payments --take-over`"):
            refused()
    release_model(ours, SECOND, take_over=True)
    advance_rollout(ours, "payments")
    claim_file(ours).unlink()
    with pytest.raises(OwnerUnknownError, match="has no claim of payments, so nothing is changed"):
        advance_rollout(ours, "payments")
    assert not claim_file(ours).exists()
    release_model(ours, SECOND)
    advance_rollout(ours, "payments")


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
    theirs = new_claim(folder_of(third))
    with pytest.raises(
        ConflictError, match=f"taken over meanwhile by the home with the store folder {third.store_path}"
    ):
        move_claim(Between(lake, lambda: move_claim(LocalFolder(lake), theirs)), new_claim(folder_of(other)))
    assert read_claim(LocalFolder(lake), "payments") == theirs

    plain, ours_now = LocalFolder(lake), new_claim(folder_of(other))
    told = {"release": 7}
    moved = move_claim(Between(lake, lambda: record_rollout(plain, "payments", theirs.home, told)), ours_now)
    assert read_claim(plain, "payments") == moved == ours_now
    record_rollout(plain, "payments", theirs.home, told)  # of a home that has lost it
    assert read_claim(plain, "payments") == ours_now
