"""After a change of its features, a champion goes on with those of its training until a new one passes the gate."""

from datetime import date
from pathlib import Path

import pytest
from changed_features import DAYS, check_predictions, list_earlier, write_project
from contracts_shop import land, run_nightly

from forecache.base.settings import Settings

pytestmark = pytest.mark.slow
BOTH = ("spend", "both")


@pytest.fixture
def shop(settings: Settings, tmp_path: Path) -> Settings:
    land(settings.home_path, DAYS)
    write_project(tmp_path / "old", "old")
    write_project(tmp_path / "new", "new")
    write_project(tmp_path / "refused", "new", floor=0.0)
    return settings


def test_a_champion_scores_the_features_of_its_training_until_another_one_passes_the_gate(
    shop: Settings, tmp_path: Path
) -> None:
    def run(project: str, night: date, trains: str = "never", settings: Settings = shop) -> list[str]:
        told: list[str] = run_nightly(settings, tmp_path / project, night, *BOTH, trains=trains)["objections"]
        return told

    assert run("old", DAYS[11], "first") == []
    check_predictions(shop, "old", 1, DAYS[11])
    assert run("new", DAYS[12]) == []
    check_predictions(shop, "old", 1, DAYS[12])
    assert len(run("refused", DAYS[13], "first")) == 2
    check_predictions(shop, "old", 1, DAYS[13])
    assert run("new", DAYS[14], "first") == []
    check_predictions(shop, "new", 3, DAYS[14])
    print(list_earlier(shop))
