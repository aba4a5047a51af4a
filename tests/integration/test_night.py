"""The night without an orchestrator: all stages in order, what Dagster's runs do, and nothing past a failed check."""

from datetime import date, timedelta
from pathlib import Path

import pytest
import shelf_project
from offered_sample import NIGHT, land_offers, shown, visits
from shelf_lake import LAST, landing_of
from shelf_project.pipelines.shelf import PURCHASES
from till_project.pipelines.till import till

from forecache.base.errors import CheckError, PipelinesFailedError
from forecache.base.results import StageResult
from forecache.base.settings import PROJECT_ROOT, Settings, load_settings
from forecache.kit.delta.tables import table_exists
from forecache.kit.versioned.pointer import read_pointer
from forecache.operations.training_due import is_training_due, last_training
from forecache.realtime.release.folder import open_releases
from forecache.runs import run_night
from forecache.serve.store import open_store

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).parent.parent / "support"
DAYS = [date(2026, 1, day) for day in range(1, 7)]


@pytest.fixture(autouse=True)
def projects(monkeypatch: pytest.MonkeyPatch, spark: object) -> None:
    """Processes that train find the projects of the tests; uses the shared Spark session."""
    monkeypatch.syspath_prepend(str(SUPPORT))


def land(settings: Settings, day: date, *amounts: str, source: str = "sales") -> None:
    folder = Path(settings.landing_uri) / source
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"c{number:02},{day},{amount}" for number, amount in enumerate(amounts)]
    (folder / f"{day}.csv").write_text("\n".join(["customer,day,amount", *rows]) + "\n")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(home=tmp_path / "home", project="till_project", spark_master="local[2]")
    for number, day in enumerate(DAYS):
        land(settings, day, *(str(customer + number % 2) for customer in range(40)))
    return settings


def served(settings: Settings) -> tuple[int, str]:
    manifest = open_store(settings, "till").current()
    assert manifest is not None
    return manifest.version, manifest.as_of


def stages_of(results: list[StageResult]) -> list[str]:
    return [result.stage for result in results]


def test_the_file_shows_the_whole_night_in_at_most_a_hundred_lines() -> None:
    assert (PROJECT_ROOT / "forecache" / "night.py").read_text().count("\n") <= 100


def test_a_first_night_trains_and_publishes_and_the_next_run_of_either_kind_finds_all_of_it_current(
    settings: Settings,
) -> None:
    from jobs.runner import run

    first = run_night(settings)
    assert stages_of(first) == [
        "ingest",
        "features",
        "training_set",
        "train",
        "register",
        "score",
        "publish",
    ]
    assert served(settings) == (1, "2026-01-06")
    assert [result.stage for result in run_night(settings) if not result.skipped] == []
    by_dagster = run(settings, pipelines=["till"], job="full")
    assert {"features", "training_set", "train", "score", "publish"} <= {*stages_of(by_dagster)}
    assert [result.stage for result in by_dagster if not result.skipped] == []
    assert served(settings) == (1, "2026-01-06")


def test_a_night_after_a_training_time_trains_again_and_one_before_it_does_not(settings: Settings) -> None:
    run_night(settings, DAYS[4])
    last = last_training(settings, till)
    assert last is not None
    assert "training_set" not in stages_of(run_night(settings, DAYS[5]))
    assert not is_training_due(settings, till, now=last.ended_at + timedelta(seconds=1))
    assert is_training_due(settings, till, now=last.ended_at + timedelta(days=7))


@pytest.mark.parametrize(
    ("amounts", "column", "built", "missing"),
    [
        (("10", "9000"), "amount", "raw_orders", "features_orders"),
        (("10", "400"), "spent", "features_orders", "training_set_orders"),
    ],
)
def test_nothing_is_built_from_what_fails_its_check(
    amounts: tuple[str, ...], column: str, built: str, missing: str, tmp_path: Path
) -> None:
    settings = load_settings(home=tmp_path / "home", project="shop_project", spark_master="local[2]")
    for day in DAYS:
        land(settings, day, *amounts, source="orders")
    with pytest.raises(PipelinesFailedError, match=f"orders.*{column}") as failed:
        run_night(settings)
    assert isinstance(failed.value.failures["orders"], CheckError)
    assert table_exists(settings, built)
    assert not table_exists(settings, missing)


def test_a_real_time_model_is_trained_and_released_after_its_views_are_published(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", project="offered_project", spark_master="local[2]")
    land_offers(settings, visits(), shown(per_day=150))
    stages = stages_of(run_night(settings, NIGHT))
    training = ["training_set", "train", "register", "release"]
    assert stages[: stages.index("release") + 1] == [*["ingest"] * 2, *["features", "publish"] * 4, *training]
    assert read_pointer(open_releases(settings, "offers")).current == 1


def test_what_a_recommender_refuses_fails_the_night_after_the_others_are_published(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", project="shelf_project", spark_master="local[2]")
    shelf_project.land(landing_of(settings))
    good = LAST - timedelta(days=1)
    assert [result.subject for result in run_night(settings, good) if result.stage == "publish"] == [
        "offers", "offers_items",
    ]  # fmt: skip
    [file] = (landing_of(settings) / PURCHASES.name).glob(f"{LAST}*")
    file.unlink()
    with pytest.raises(PipelinesFailedError, match=rf"As-of date {LAST} is empty"):
        run_night(settings, LAST)
    manifest = open_store(settings, "offers").current()
    assert manifest is not None
    assert manifest.as_of == good.isoformat()
