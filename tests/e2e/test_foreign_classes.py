"""A pipeline that somebody else might declare: classes, of events and a snapshot, from landing files to answers."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from foreign_project.pipelines.plans import END, REGIONS, START, plans

from forecache.base.errors import InputError
from forecache.base.settings import Settings, load_settings
from forecache.lake.ingest.ingest import ingest
from forecache.lake.query import query
from forecache.lake.training_set import build_training_set
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import open_store, parse_key

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(900)]
CUSTOMERS = 300
DAYS = [START + timedelta(days=i) for i in range((END - START).days + 1)]
TARIFFS = ("basic", "flat", "prepaid")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: object) -> Settings:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_PROJECT", "foreign_project")
    settings = load_settings(spark_master="local[2]")
    rng = np.random.default_rng(4)
    region, age = rng.integers(0, 3, CUSTOMERS), rng.integers(18, 80, CUSTOMERS)
    for name in ("bookings", "customers"):
        (Path(settings.landing_uri) / name).mkdir(parents=True)
    for day in DAYS:
        rows = ["customer,day,tariff,minutes"]
        for i in range(CUSTOMERS):
            tariff = TARIFFS[region[i] if rng.random() < 0.8 else int(rng.integers(0, 3))]
            rows.append(f"c{i:03},{day},{tariff},{rng.exponential(20):.1f}")
        (Path(settings.landing_uri) / "bookings" / f"{day}.csv").write_text("\n".join(rows) + "\n")
    known = [f"c{i:03},{REGIONS[region[i]]},{age[i]}" for i in range(CUSTOMERS)]
    state = "\n".join(["customer,region,age", *known]) + "\n"
    (Path(settings.landing_uri) / "customers" / f"{START}.csv").write_text(state)
    return settings


def test_classes_go_from_landing_files_to_answers_and_are_watched(settings: Settings) -> None:
    from forecache.plugins.drift.monitor import monitor
    from jobs.runner import run as run_job

    nights = (DAYS[-2], DAYS[-1])
    results = {result.stage: result for result in run_job(settings, pipelines=["plans"], nights=nights, job="full")}
    assert results["training_set"].details["classes"] == list(TARIFFS)
    assert results["training_set"].details["class_shares"]["test"]["flat"] > 0.2
    joined = "predictions_plans p join features_plans f on p.customer = f.customer and p.as_of = f.as_of"
    asked = f"select p.*, f.region from {joined} where p.as_of = date '{END}' order by p.customer"
    rows = query(settings, asked).to_pylist()
    assert len(rows) == CUSTOMERS
    hits = [row["next_tariff"] == TARIFFS[REGIONS.index(row["region"])] for row in rows]
    assert np.mean(hits) > 0.9
    with open_store(settings, "plans").snapshot() as snapshot:
        answers = VersionAnswers(snapshot)
        answers.refresh(time.time())
        [value] = [json.loads(answers.one(parse_key(snapshot.manifest.key, "c007")))["value"]]
    assert value == {name: rows[7][name] for name in plans.output_columns}
    measured = monitor(settings, plans, [END])
    assert measured.details["notes"][END.isoformat()] == []
    kinds = query(settings, "select kind, name, value from monitoring where kind = 'performance'").to_pylist()
    assert [(row["kind"], row["name"]) for row in kinds] == [("performance", "log_loss")]
    assert 0 < kinds[0]["value"] < 1.2


def test_a_class_that_comes_up_after_the_training_split_is_named(settings: Settings, spark: "SparkSession") -> None:
    file = Path(settings.landing_uri) / "bookings" / f"{END}.csv"
    file.write_text(file.read_text().replace(",flat,", ",unlimited,", 1))
    for source in plans.sources:
        ingest(settings, source)
    with pytest.raises(InputError, match="test split of pipeline 'plans' has the class 'unlimited' of 'tariff', which"):
        build_training_set(settings, plans, END)
