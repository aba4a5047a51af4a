"""Homes that claim a model at the same instant, or are killed at it, in a folder and on a real S3 server."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from claim_jobs import own_together, own_until, take_over_until
from rollout_support import NAME, answered, begin, looked, state_of, two_releases
from store_services import minio_server
from warm import processes, start

from forecache.base.errors import ConflictError, DamagedError, NotEverywhereError
from forecache.base.folders import open_folder
from forecache.base.settings import Settings, load_settings
from forecache.plugins.rollouts.controller import advance_rollout, apply_manual_action, running_rollouts
from forecache.plugins.rollouts.ownership import claim_of, claim_ownership
from forecache.realtime.release.claim import installation_of
from forecache.realtime.release.folder import open_releases, pointer_from_json, read_current
from forecache.realtime.release.replicas import push_releases
from forecache.serve.store.replicas.sync import open_remote

pytestmark = [pytest.mark.faults, pytest.mark.slow]
_HOMES = 4


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio") / "minio", "cloud") as found:
        yield found


@pytest.fixture(params=["folder", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of a lake and a remote that several homes share."""
    if request.param == "folder":
        return {"lake": str(tmp_path / "lake"), "store_remote": str(tmp_path / "remote")}
    of_test = f"s3://cloud/{tmp_path.name}"
    found = request.getfixturevalue("options")
    return {"lake": f"{of_test}/lake", "store_remote": f"{of_test}/remote", "storage_options": found}


def ended(target: Any, *arguments: object) -> int:
    process = start(target, *arguments)
    process.join(120)
    return int(process.exitcode)


def owner_of(settings: Settings) -> str:
    claim = claim_of(settings, NAME)
    assert claim is not None
    return claim.path


def test_of_homes_that_claim_at_the_same_instant_one_has_it_and_the_others_name_it(
    lake: dict[str, Any], tmp_path: Path
) -> None:
    homes = [tmp_path / f"home{number}" for number in range(_HOMES)]
    barrier = processes().Barrier(_HOMES)
    started = [start(own_together, home, lake, barrier) for home in homes]
    for process in started:
        process.join(120)
        assert process.exitcode == 0
    results = {home: (home / "result").read_text() for home in homes}
    [winner] = [home for home, result in results.items() if result == "claimed"]
    store = str(load_settings(home=winner, **lake).store_path)
    assert owner_of(load_settings(home=winner, **lake)) == store
    assert (
        sum(f"{NAME} is released by the home with the store folder {store} on" in each for each in results.values())
        == 3
    )


@pytest.mark.parametrize("step", ["identified", "claimed"])
def test_a_home_that_is_killed_at_its_claim_claims_it_once_and_still_has_it(
    lake: dict[str, Any], tmp_path: Path, step: str
) -> None:
    ours, other = (load_settings(home=tmp_path / name, **lake) for name in ("ours", "other"))
    assert ended(own_until, ours.home_path, lake, step) == -signal.SIGKILL
    first = installation_of(open_releases(ours, NAME))
    claim_ownership(ours, open_releases(ours, NAME))
    assert installation_of(open_releases(ours, NAME)) == first != ""
    with pytest.raises(ConflictError):
        claim_ownership(other, open_releases(other, NAME))
    assert owner_of(other) == str(ours.store_path)


def test_of_a_claim_that_was_half_written_a_home_can_go_back_and_take_it_over_with_what_it_went_back_to(
    lake: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = load_settings(home=tmp_path / "ours", **lake)
    folder, remote = open_releases(ours, NAME), open_remote(ours.store_remote, ours.storage_options)
    two_releases(ours)
    begin(ours)
    push_releases(folder, remote)
    at = open_folder(ours.lake_uri, ours.storage_options, setting="FORECACHE_LAKE")
    target = f".realtime/{NAME}/CLAIM"
    written = at.read(target)
    assert written is not None
    at.write(target, written[0][: len(written[0]) // 2])
    with pytest.raises(DamagedError, match=f"{target} is damaged.+`forecache release {NAME} --take-over` replaces it"):
        looked(ours)
    with pytest.raises(NotEverywhereError, match=f"{target} is damaged"):
        apply_manual_action(ours, NAME, "return", "complaints")
    [warning] = [each.getMessage() for each in caplog.records if each.name == "forecache.rollout"]
    assert "--take-over" in warning
    assert (state_of(ours).stage, read_current(folder).bad) == ("returned", (2,))

    assert ended(take_over_until, ours.home_path, lake, "taken over") == -signal.SIGKILL
    claim_ownership(ours, folder)  # as each `forecache release` does
    assert owner_of(ours) == str(ours.store_path)
    assert (state_of(ours).stage, read_current(folder).bad) == ("returned", (2,))
    assert running_rollouts(ours, [NAME]) == [NAME]  # the remote is not told yet
    looked(ours)
    assert running_rollouts(ours, [NAME]) == []
    found = remote.read(f".realtime/{NAME}/CURRENT")
    assert found is not None
    assert pointer_from_json(found[0], what="").bad == (2,)


@pytest.mark.parametrize("step", ["taken over", "adopted"])
def test_a_take_over_that_is_killed_leaves_one_owner_and_is_finished_by_the_next(
    lake: dict[str, Any], tmp_path: Path, step: str
) -> None:
    ours, other = (load_settings(home=tmp_path / name, **lake) for name in ("ours", "other"))
    two_releases(ours)
    begin(ours)
    answered(ours)
    assert looked(ours).stage == "shadow"
    push_releases(open_releases(ours, NAME), open_remote(ours.store_remote, ours.storage_options))
    assert ended(take_over_until, other.home_path, lake, step) == -signal.SIGKILL
    assert owner_of(ours) == str(other.store_path)
    found = advance_rollout(ours, NAME)
    assert found is not None
    assert (found.state.stage, found.state.paused) == ("shadow", True)

    assert running_rollouts(other, [NAME]) == ([] if step == "taken over" else [NAME])
    claim_ownership(other, open_releases(other, NAME))  # as each `forecache release` does
    assert running_rollouts(other, [NAME]) == [NAME]
    for turn, stage in enumerate(("canary", "canary", "done"), start=1):
        answered(other, 1200, first=2000 * turn)
        assert looked(other).stage == stage, state_of(other).why
    assert read_current(open_releases(other, NAME)).current == 2
    assert [step.requests != (0, 0) for step in state_of(other).steps] == [True] * 4
    assert read_current(open_releases(ours, NAME)).current == 1
