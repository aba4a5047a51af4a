"""Nights that are killed, or cannot build, while a champion scores the features of its training after they changed."""

import json
import shutil
from pathlib import Path

import pytest
from changed_features import DAYS, call, check_predictions, list_kept, read_predictions, write_project
from contracts_shop import land, run_nightly

from forecache.base.settings import Settings, load_settings
from forecache.lake.kept_definitions import list_contracts, read_definition

pytestmark = [pytest.mark.faults, pytest.mark.slow]
DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects")
    write_project(folder / "old", "old")
    write_project(folder / "new", "new")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, projects: Path) -> Path:
    """A home with a champion of the joined pipeline, whose first night was killed once its definition was kept."""
    settings = load_settings(home=tmp_path_factory.mktemp("trained") / "home")
    land(settings.home_path, DAYS)
    run_nightly(settings, projects / "old", DAYS[11], "both", kill="contract:definition kept")
    assert list_kept(settings) == {"both": 1}
    run_nightly(settings, projects / "old", DAYS[11], "both")
    check_predictions(settings, "old", 1, DAYS[11], names=("both",))
    return settings.home_path


@pytest.fixture
def shop(settings: Settings, trained: Path) -> Settings:
    shutil.copytree(trained, settings.home_path)
    return settings.model_copy(update={"kept_contract_days": 0.0})


def test_a_night_that_cannot_build_the_earlier_features_leaves_the_last_predictions_until_it_can(
    shop: Settings, projects: Path
) -> None:
    [(name, contract)] = list_contracts(shop, kind="features")
    file = Path(shop.lake_uri) / f".state/features/{name}/{contract}.json"
    content = file.read_bytes()
    files = {**read_definition(shop, name, contract, "features").files, "shop/rates.py": DIES}
    file.write_text(json.dumps({**json.loads(content), "files": files}))
    with pytest.raises(AssertionError, match="was trained on are not built"):
        call(shop, projects / "new", "run", "both", "--date", str(DAYS[12]))
    assert read_predictions(shop, "both", DAYS[12]) == (set(), {})
    check_predictions(shop, "old", 1, DAYS[11], names=("both",))
    file.write_bytes(content)
    run_nightly(shop, projects / "new", DAYS[12], "both")
    check_predictions(shop, "old", 1, DAYS[12], names=("both",))


def test_nights_killed_once_earlier_features_are_built_and_while_they_end_are_finished_later(
    shop: Settings, projects: Path
) -> None:
    run_nightly(shop, projects / "new", DAYS[12], "both", kill="contract:earlier features built")
    assert read_predictions(shop, "both", DAYS[12]) == (set(), {})
    told = run_nightly(shop, projects / "new", DAYS[12], "both")
    assert told["objections"] == []
    check_predictions(shop, "old", 1, DAYS[12], names=("both",))
    tables = {"features_both": 1, "features_habits": 1, "features_recent": 1, "tiles_recent": 1}
    assert list_kept(shop) == {**tables, "both": 1}
    # The present definition is kept, too, with the model that takes the champion's place.
    run_nightly(shop, projects / "new", DAYS[13], "both", kill="contract:tables removed", trains="first")
    assert list_kept(shop) == {"both": 2}
    call(shop, projects / "new", "maintain")
    assert list_kept(shop) == {"both": 2}
    run_nightly(shop, projects / "new", DAYS[13], "both")
    check_predictions(shop, "new", 2, DAYS[13], names=("both",))
