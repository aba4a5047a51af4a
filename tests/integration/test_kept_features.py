"""After a change of its features, a champion goes on with those of its training until another one passes the gate."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from changed_features import (
    DAYS,
    NAMES,
    call,
    check_predictions,
    list_kept,
    read_predictions,
    true_features,
    write_project,
)
from contracts_shop import land, run_nightly

from forecache.base.settings import Settings, load_settings
from forecache.lake.kept_definitions import list_contracts, read_definition, remove_definition, write_definition
from forecache.models.registry.model_versions import FEATURES_TAG
from forecache.models.tracking.client import connect_mlflow

pytestmark = pytest.mark.slow
TABLES = {"features_both": 1, "features_habits": 1, "features_recent": 1, "tiles_recent": 1}
"""Tables of earlier features of the joined pipeline: the view `steady` did not change."""


@pytest.fixture
def projects(settings: Settings, tmp_path: Path) -> Path:
    land(settings.home_path, DAYS)
    for name, definition, floor in (("old", "old", 1e6), ("new", "new", 1e6), ("refused", "new", 0.0)):
        write_project(tmp_path / name, definition, floor=floor)
    return tmp_path


def test_a_champion_scores_the_features_of_its_training_until_another_one_passes_the_gate(
    settings: Settings, projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_MLFLOW_URI", f"sqlite:///{projects / 'mlflow.db'}")
    monkeypatch.setenv("FORECACHE_MLFLOW_ARTIFACTS", (projects / "artifacts").as_uri())
    shared = {"lake": str(projects / "lake"), "landing": settings.landing_uri}
    shop, other = (load_settings(home=projects / name, **shared) for name in ("here", "there"))

    def run(settings: Settings, project: str, night: date, trains: str = "never") -> list[str]:
        told = run_nightly(settings, projects / project, night, "spend", "both", trains=trains, looks=False)
        found: list[str] = told["objections"]
        return found

    assert run(shop, "old", DAYS[11], "first") == []
    check_predictions(shop, "old", 1, DAYS[11])
    assert list_kept(shop) == {"spend": 1, "both": 1}

    assert run(other, "new", DAYS[12]) == []  # with an empty disk
    check_predictions(shop, "old", 1, DAYS[12])
    assert {*list_kept(shop)} == {*TABLES, "features_spend", "spend", "both"}
    explain(other, projects / "new", DAYS[12])

    assert len(run(shop, "refused", DAYS[13], "first")) == 2
    check_predictions(shop, "old", 1, DAYS[13])

    assert run(shop, "new", DAYS[14], "first") == []
    check_predictions(shop, "new", 3, DAYS[14])


def test_features_of_which_another_version_of_forecache_made_another_fingerprint_are_the_present_ones(
    settings: Settings, projects: Path
) -> None:
    def run(project: str, night: date, trains: str = "never") -> list[str]:
        told = run_nightly(settings, projects / project, night, "spend", "both", trains=trains)
        said: list[str] = [*told["objections"], *told["said"]]
        assert told["objections"] == []
        return said

    run("old", DAYS[11], "first")
    for name, contract in list_contracts(settings, kind="features"):
        earlier = "0" * len(contract)
        write_definition(settings, replace(read_definition(settings, name, contract, "features"), contract=earlier))
        remove_definition(settings, name, contract, "features")
        connect_mlflow(settings).set_model_version_tag(name, "1", FEATURES_TAG, earlier)
    assert call(settings, projects / "old", "plan", "--date", str(DAYS[12]), code=10)["blocked"] == {}
    run("old", DAYS[12])
    check_predictions(settings, "old", 1, DAYS[12])
    assert list_kept(settings) == {"spend": 1, "both": 1}
    assert not any("goes on with" in line or "another definition" in line for line in run("old", DAYS[13]))
    run("new", DAYS[14])
    check_predictions(settings, "old", 1, DAYS[14])


def test_earlier_features_return_by_a_rollback_are_those_of_a_challenger_and_end(
    settings: Settings, projects: Path
) -> None:
    def run(project: str, night: date, trains: str = "never", kept_days: float = 7.0) -> None:
        current = settings.model_copy(update={"kept_contract_days": kept_days})
        told = run_nightly(current, projects / project, night, "both", trains=trains)
        assert told["objections"] == []

    run("old", DAYS[11], "first")
    run("new", DAYS[12], "first")
    check_predictions(settings, "new", 2, DAYS[12], names=("both",))
    assert list_kept(settings) == {"both": 2}
    call(settings, projects / "new", "models", "rollback", "both")
    measured = call(settings, projects / "new", "monitor", "both", "--date", f"{DAYS[12]}")
    assert measured["notes"] == ["no drift of features: those that champion 1 was trained on are not built"]
    assert "feature" not in {each["kind"] for each in measured["figures"]}
    run("new", DAYS[12])
    measured = call(settings, projects / "new", "monitor", "both", "--date", f"{DAYS[12]}")
    features = [each["name"] for each in measured["figures"] if each["kind"] == "feature"]
    assert sorted(features) == sorted(NAMES["both", "old"])
    check_predictions(settings, "old", 1, DAYS[12], names=("both",))
    assert list_kept(settings) == {**TABLES, "both": 2}

    call(settings, projects / "new", "promote", "both", "2")
    call(settings, projects / "new", "challenge", "both", "1")
    run("new", DAYS[13], kept_days=0.0)
    check_predictions(settings, "new", 2, DAYS[13], names=("both",))
    check_predictions(settings, "old", 1, DAYS[13], names=("both",), challenger=True)
    assert list_kept(settings) == {**TABLES, "both": 2}

    call(settings, projects / "new", "challenge", "both", "--stop")
    run("new", DAYS[14], kept_days=0.0)
    check_predictions(settings, "new", 2, DAYS[14], names=("both",))
    assert list_kept(settings) == {"both": 2}

    # A version that comes back later finds the definition of its features.
    call(settings, projects / "new", "promote", "both", "1")
    run("new", DAYS[15], kept_days=0.0)
    check_predictions(settings, "old", 1, DAYS[15], names=("both",))
    assert list_kept(settings) == {**TABLES, "both": 2}


def explain(shop: Settings, project: Path, night: date) -> None:
    """See that answers are traced to the earlier features, and to the events that those of a view were made from."""
    for name in ("spend", "both"):
        _, predictions = read_predictions(shop, name, night)
        customer = min(predictions)
        chain = call(shop, project, "explain", name, str(customer))
        features, truth = chain["features"], true_features("old", customer, night)
        assert truth is not None
        assert features["table"].startswith(f"features_{name}__")
        assert features["row"]["spent"] == truth["spent"]
        assert all(each["events"] == truth["visits"] for each in chain["raw"])
        assert chain["contributions"]["sum"] == pytest.approx(predictions[customer], rel=1e-4)
