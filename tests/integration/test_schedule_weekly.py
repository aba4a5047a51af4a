"""A weekly pipeline with all that is real: Dagster runs it for its as-of dates, and what is kept by date is theirs."""

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from forecache.base.errors import InputError
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.declare import load_pipeline
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.lake.features import build_features
from forecache.lake.ledger import last_records
from forecache.plugins.drift.measurements import measurements
from forecache.plugins.drift.monitor import monitor
from forecache.scoring.run import score
from forecache.serve.store.remote_store import open_store
from jobs.runner import run
from resources.instance import runner_instance

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow
SUNDAYS = [date(2026, 1, 4) + timedelta(weeks=week) for week in range(9)]
NEWEST = SUNDAYS[-1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: object) -> Settings:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "support"))
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_PROJECT", "weekly_project")
    settings = load_settings(spark_master="local[2]")
    folder = Path(settings.landing_uri) / "tills"
    folder.mkdir(parents=True)
    for number in range(62):
        day = date(2026, 1, 1) + timedelta(days=number)
        rows = [f"{name},{day},{5 * (1 + place) + number % (2 + place)}" for place, name in enumerate("abcdefgh")]
        (folder / f"{day}.csv").write_text("\n".join(["customer,day,amount", *rows, ""]))
    return settings


def as_of_dates_of(settings: Settings, table: str) -> list[date]:
    rows = open_dataset(open_table(settings, table)).to_table(columns=["as_of"])
    return sorted(set(rows.column("as_of").to_pylist()))


def test_a_weekly_pipeline_from_landing_to_store(
    home: Settings, spark: "SparkSession", capsys: pytest.CaptureFixture[str]
) -> None:
    weekly = load_pipeline(home, "weekly")
    # The days of the range need not be as-of dates themselves.
    results = run(home, pipelines=["weekly"], nights=(date(2026, 1, 1), date(2026, 2, 25)), job="full")
    stages = {result.stage: result for result in results}
    assert stages["features"].nights == stages["score"].nights == tuple(SUNDAYS[:-1])
    assert as_of_dates_of(home, "features_weekly") == as_of_dates_of(home, "predictions_weekly") == SUNDAYS[:-1]
    # Splits are a week apart, and the second training date 5 days before the first is the Sunday before.
    assert stages["training_set"].details["as_of"] == {
        "train": ["2026-01-25", "2026-02-01"],
        "validation": ["2026-02-08"],
        "test": ["2026-02-15"],
    }

    # Incremental scoring starts from the Sunday before, and is what a full one is.
    build_features(home, weekly, [NEWEST])
    score(home, weekly, [NEWEST], engine="arrow", mode="incremental")
    assert last_records(home, "score", "weekly")[NEWEST].details["base"].startswith(str(SUNDAYS[-2]))
    incremental = predictions(home)
    score(home, weekly, [NEWEST], engine="arrow", mode="full", rebuild=True)
    assert predictions(home) == incremental

    # The newest as-of date is the last Sunday of the data.
    found = {result.stage: result for result in run(home, pipelines=["weekly"])}
    assert found["features"].nights == found["score"].nights == (NEWEST,)
    assert found["features"].skipped
    assert found["score"].skipped
    published = found["publish"]
    assert published.nights == (NEWEST,)
    manifest = open_store(home, "weekly").current()
    assert manifest is not None
    assert (manifest.as_of, manifest.policy.max_age_h) == (NEWEST.isoformat(), weekly.schedule.max_age_h)
    with runner_instance(home) as instance:
        for asset in ("features_weekly", "predictions_weekly"):
            assert sorted(instance.get_materialized_partitions(dg.AssetKey(asset))) == [str(day) for day in SUNDAYS]

    # It is compared with the Sundays before, and reveals the performance of the last of them.
    assert last_records(home, "drift", "predictions_weekly")[NEWEST].details["nights"] == list(map(str, SUNDAYS[1:-1]))
    monitor(home, weekly, [NEWEST])
    [found] = [row for row in measurements(home, "weekly", first=NEWEST) if row.kind == "performance"]
    assert (found.as_of, found.run_date) == (SUNDAYS[-2], NEWEST)

    for command in ("run", "train"):
        assert main([command, "weekly", "--date", "2026-02-25"]) == 4
        told = capsys.readouterr().err
        assert "2026-02-25 is no as-of date of 'weekly', which has every Sunday" in told
        assert "Give 2026-02-22 or 2026-03-01" in told


def predictions(settings: Settings) -> list[tuple[object, ...]]:
    rows = open_dataset(open_table(settings, "predictions_weekly")).to_table()
    return sorted(tuple(row[name] for name in ("as_of", "customer", "next_spend")) for row in rows.to_pylist())


def test_a_range_without_an_as_of_date_is_refused_before_anything_runs(home: Settings) -> None:
    with pytest.raises(InputError, match=r"2026-01-05 is no as-of date .*Give 2026-01-04 or 2026-01-11"):
        run(home, pipelines=["weekly"], nights=(date(2026, 1, 5), date(2026, 1, 9)))
    assert not home.dagster_home.exists()
