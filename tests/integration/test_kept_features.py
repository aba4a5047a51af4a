"""After a change of its features, a champion goes on with those of its training until another one passes the gate."""

from datetime import date
from pathlib import Path

import pytest
from changed_features import DAYS, call, check_predictions, list_kept, read_predictions, true_features, write_project
from contracts_shop import land, run_nightly

from forecache.base.settings import Settings, load_settings

pytestmark = pytest.mark.slow
KEPT_TABLES = {"features_both", "features_habits", "features_recent", "features_spend", "tiles_recent"}


def test_a_champion_scores_the_features_of_its_training_until_another_one_passes_the_gate(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(settings.home_path, DAYS)
    for name, definition, floor in (("old", "old", 1e6), ("new", "new", 1e6), ("refused", "new", 0.0)):
        write_project(tmp_path / name, definition, floor=floor)
    monkeypatch.setenv("FORECACHE_MLFLOW_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("FORECACHE_MLFLOW_ARTIFACTS", (tmp_path / "artifacts").as_uri())
    shared = {"lake": str(tmp_path / "lake"), "landing": settings.landing_uri}
    shop, other = (load_settings(home=tmp_path / name, **shared) for name in ("here", "there"))

    def run(settings: Settings, project: str, night: date, trains: str = "never") -> list[str]:
        told = run_nightly(settings, tmp_path / project, night, "spend", "both", trains=trains)
        found: list[str] = told["objections"]
        return found

    assert run(shop, "old", DAYS[11], "first") == []
    check_predictions(shop, "old", 1, DAYS[11])
    assert list_kept(shop) == {"spend": 1, "both": 1}

    assert run(other, "new", DAYS[12]) == []  # with an empty disk
    check_predictions(shop, "old", 1, DAYS[12])
    assert {*list_kept(shop)} == {*KEPT_TABLES, "spend", "both"}
    explain(other, tmp_path / "new", DAYS[12])

    refusals = run(shop, "refused", DAYS[13], "first")
    assert len(refusals) == 2
    check_predictions(shop, "old", 1, DAYS[13])

    assert run(shop, "new", DAYS[14], "first") == []
    check_predictions(shop, "new", 3, DAYS[14])
    call(shop, tmp_path / "new", "models", "rollback", "spend")
    call(shop, tmp_path / "new", "challenge", "both", "1")
    assert run(shop, "new", DAYS[14]) == []
    check_predictions(shop, "old", 1, DAYS[14], names=("spend",))
    check_predictions(shop, "new", 3, DAYS[14], names=("both",))
    check_predictions(shop, "old", 1, DAYS[14], names=("both",), challenger=True)

    call(shop, tmp_path / "new", "promote", "spend", "3")
    call(shop, tmp_path / "new", "challenge", "both", "--stop")
    at_once = shop.model_copy(update={"kept_contract_days": 0.0})
    assert run(at_once, "new", DAYS[15]) == []
    check_predictions(shop, "new", 3, DAYS[15])
    assert list_kept(shop) == {"spend": 1, "both": 1}


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
