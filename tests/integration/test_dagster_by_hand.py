"""What commands change by hand is told on the assets: who did it, when, and with which command."""

import getpass
import shutil
import time
from pathlib import Path

import dagster as dg
import pytest
import rollback_sample as sample

from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from resources.instance import ensure_instance, runner_instance

BY = f"cli:{getpass.getuser()}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home that Dagster knows, with two champions that each published a version."""
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_PROJECT", "sample_project")
    settings = load_settings()
    sample.two_champions(settings)
    ensure_instance(settings)
    return settings


def events(settings: Settings, asset: str) -> list[dict[str, object]]:
    """The metadata of an asset's events, oldest first; each has its kind, and is of the last minutes."""
    with runner_instance(settings) as instance:
        key = dg.AssetKey(asset)
        fetched = (instance.fetch_observations(key, limit=9), instance.fetch_materializations(key, limit=9))
        found = sorted((r for some in fetched for r in some.records), key=lambda record: record.storage_id)
        assert all(time.time() - record.timestamp < 600 for record in found)
        told = [record.asset_observation or record.asset_materialization for record in found]
    return [
        {"kind": type(event).__name__, **{name: value.value for name, value in event.metadata.items()}}
        for event in told
        if event
    ]


def test_rollback_promotion_pin_and_publish_are_told_on_the_assets(home: Settings) -> None:
    assert main(["rollback", "returns", "--reason", "too low"]) == 0
    observed = {"kind": "AssetObservation", "by": BY}
    (served,) = events(home, "published_returns")
    assert served == observed | {"command": "forecache rollback", "version": 1, "reason": "too low"}
    (model,) = events(home, "model_returns")
    assert (model["champion"], model["champion_before"], model["by"]) == (1, 2, BY)

    assert main(["promote", "returns", "2", "--reason", "it was right"]) == 0
    promoted = events(home, "model_returns")[-1]
    assert promoted == observed | {"command": "forecache promote", "champion": 2, "reason": "it was right"}

    assert main(["store", "pin", "returns", "1"]) == 0
    assert main(["store", "unpin", "returns"]) == 0
    assert [event.get("pinned") for event in events(home, "published_returns")] == [None, 1, "none"]

    assert main(["store", "unblock", "returns", "2"]) == 0
    assert main(["publish", "returns", "--unchecked"]) == 0
    published = events(home, "published_returns")[-1]
    assert (published["kind"], published["by"]) == ("AssetMaterialization", BY)
    assert (published["version"], published["command"], published["dagster/row_count"]) == (3, "forecache publish", 400)
    assert main(["publish", "returns", "--unchecked"]) == 0
    assert len(events(home, "published_returns")) == 5  # nothing was published again


def test_a_rollback_is_done_where_dagster_cannot_be_told(home: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(home.dagster_home)
    home.dagster_home.mkdir()
    (home.dagster_home / "history").touch()  # the event log's folder cannot be made
    assert main(["rollback", "returns"]) == 0
    told = capsys.readouterr()
    assert "Rolled back." in told.out
    assert "Warning: this is done, but Dagster's UI does not show it:" in told.err


def test_a_rollback_that_the_remote_cannot_follow_is_told_too(
    home: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "remote").touch()  # no folder can be made there
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", str(tmp_path / "remote"))
    assert main(["rollback", "returns", "--reason", "too low"]) == 7
    assert "That is done here, but not in every replica of returns" in capsys.readouterr().err
    (event,) = events(home, "published_returns")
    assert (event["version"], event["reason"], event["by"]) == (1, "too low", BY)
    assert "Rolled back. That is done here" in str(event["not_everywhere"])


def test_a_home_without_dagster_gets_none(home: Settings) -> None:
    shutil.rmtree(home.dagster_home)
    assert main(["rollback", "returns"]) == 0
    assert not home.dagster_home.exists()
