"""The cost table: amounts from the ledger, prices from the settings, and nothing invented where one is missing."""

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cost_support import NIGHT, PRICES, row, trained, written

from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.lake.ledger import append_records
from forecache.plugins.cost.cost_report import cost_report, plot_costs, report_to_dict
from forecache.plugins.cost.stage_costs import (
    DAYS_OF_A_MONTH,
    ReaderUse,
    describe_unrecorded,
    predictions_a_day,
    stage_lines,
    training_lines,
)


@pytest.fixture
def priced(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", prices=PRICES, reader_replicas=3)


def test_scoring_counts_its_core_seconds_and_other_stages_their_time_on_the_cores(priced: Settings) -> None:
    records = [
        row("score", rows=1000, seconds=100.0, cost={"core_s": 7200.0}),
        row("features", seconds=1800.0),
        row("features", seconds=1800.0),
        row("publish", seconds=0.0),
    ]
    features, score = sorted(stage_lines(priced, records, 2.0, cores=4), key=lambda line: line.what)
    assert (score.amount, score.unit, score.basis) == (1.0, "core-hours", "measured")
    assert (score.price, score.price_spot) == (pytest.approx(0.04), pytest.approx(0.01))
    assert (features.amount, features.basis) == (pytest.approx(2.0), "held")
    assert predictions_a_day(records, 2.0) == {"churn": 500.0}


def test_a_list_of_a_recommender_is_a_prediction_of_its_own(priced: Settings) -> None:
    made = row("recommend", "shop", rows=1_000_000, seconds=1800.0)
    append_records(priced, [made, row("score", rows=3_000_000, cost={"core_s": 3600.0}), row("features", rows=7)])
    report = report_to_dict(cost_report(priced, days=7, cores=4))
    assert report["predictions"] == {"shop": 1e6, "churn": 3e6}
    of = report["price_per_million_predictions_of"]
    assert of == {"shop": pytest.approx(2 * 0.04), "churn": pytest.approx(0.04 / 3)}
    by_part = report["price_by_part"]
    assert report["price_per_million_predictions"] == pytest.approx((by_part["stage"] + by_part["storage"]) / 4)


def test_each_table_of_the_lake_has_a_line_that_names_it(priced: Settings) -> None:
    append_records(priced, [row("score", rows=1)])
    for name, num_bytes in (("request_log_rank", 2_000_000), ("raw_events", 1_000_000)):
        folder = Path(priced.lake_uri) / name
        folder.mkdir()
        (folder / "part.parquet").write_bytes(bytes(num_bytes))
    lines = [line for line in cost_report(priced, days=7, cores=1).lines if line.what == "lake"]
    assert [line.subject for line in lines] == ["request_log_rank", "raw_events", "stage_ledger"]
    assert lines[0].amount == pytest.approx(0.002)


def test_a_training_on_demand_would_not_have_repeated_what_preemption_wasted(priced: Settings) -> None:
    [line] = training_lines(priced, [trained(7200.0, 1800.0), trained(7200.0, 1800.0)], 1.0)
    assert (line.amount, line.wasted) == (4.0, 1.0)
    assert line.price == pytest.approx((4 - 1) * 3.0)
    assert line.price_spot == pytest.approx(4 * 1.0)


def test_the_report_adds_up_and_divides_by_what_was_made(priced: Settings) -> None:
    written(priced)
    report = cost_report(priced, days=7, cores=2)
    assert report.days == 1.0  # the ledger was made just now
    made = report_to_dict(report)
    by_what = {line["what"]: line for line in made["lines"]}
    assert by_what["store"]["price"] == pytest.approx(0.001 * 0.08 / DAYS_OF_A_MONTH)
    assert by_what["readers"]["price"] == pytest.approx(3 * 24 * 0.05)
    assert made["spot_saving"] == pytest.approx(0.9 * 3.0 - 1.0)
    stages, storage = 0.04 + 0.9 * 3.0, made["price_by_part"]["storage"]
    assert made["price_per_million_predictions"] == pytest.approx((stages + storage) / 2)
    assert made["price_per_million_predictions_of"]["churn"] == pytest.approx((stages + by_what["store"]["price"]) / 2)
    assert made["price_per_million_answers"] is None  # nobody says how many there were
    assert made["missing_prices"] == []


def test_a_missing_price_is_said_and_makes_no_sum(priced: Settings) -> None:
    written(priced)
    unpriced = priced.model_copy(update={"prices": {"cpu": (0.04, 0.01)}, "reader_replicas": 0})
    made = report_to_dict(cost_report(unpriced, days=7, cores=2))
    assert made["missing_prices"] == ["NVIDIA H100 80GB HBM3", "storage"]
    assert made["price_by_part"] == {
        "stage": pytest.approx(0.04),
        "training": None,
        "streams": None,
        "storage": None,
        "replicas": None,
    }
    assert made["price_per_million_predictions"] is None
    assert made["spot_saving"] is None


def test_answers_and_replicas_come_from_prometheus(priced: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from forecache.plugins.cost import cost_report as module

    written(priced)
    monkeypatch.setattr(module, "use_of_readers", lambda settings, days: ReaderUse(2.0, 4_000_000.0, "Prometheus"))
    report = cost_report(priced, days=7, cores=2)
    assert report.per_million_answers == pytest.approx(2 * 24 * 0.05 / 4)


def test_the_command_shows_lines_and_what_is_missing(
    priced: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(priced)
    monkeypatch.setenv("FORECACHE_HOME", str(priced.home_path))
    monkeypatch.setenv("FORECACHE_PRICES", json.dumps({"cpu": [0.04, 0.01]}))
    assert main(["cost", "--plot", str(tmp_path / "cost.svg")]) == 0
    shown = capsys.readouterr().out
    assert "measured, 0.1 wasted by preemption" in shown
    assert "Not counted: brokers of Kafka" in " ".join(shown.split())
    assert "There is no price for 'storage': add it to FORECACHE_PRICES" in shown
    assert "set FORECACHE_READER_REPLICAS, or FORECACHE_PROMETHEUS_URL" in shown
    assert "churn: score" in (tmp_path / "cost.svg").read_text()
    assert main(["cost", "--plot", "cost.gif"]) == 4


def test_no_ledger_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    assert main(["cost"]) == 3
    assert "Run `forecache run`" in capsys.readouterr().err


def test_dagster_shows_the_lines_the_picture_and_the_known_prices(priced: Settings) -> None:
    from forecache.plugins.cost.orchestration import cost_metadata

    written(priced)
    found = cost_metadata(cost_report(priced, days=7, cores=2))
    assert found["training_price_a_day"] == pytest.approx(2.7)
    assert "price_per_million_answers" not in found
    assert "| training | churn | train on NVIDIA H100 80GB HBM3 |" in found["lines"].value
    assert found["picture"].value.startswith("![cost](data:image/svg+xml;base64,")


def test_a_picture_is_written_without_any_price(priced: Settings, tmp_path: Path) -> None:
    written(priced)
    plot_costs(cost_report(priced.model_copy(update={"prices": {}}), days=7, cores=2), tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_records_since_a_moment_are_those_that_were_recorded_then(priced: Settings) -> None:
    from forecache.lake.ledger import records_since

    append_records(priced, [row("score")])
    moment = datetime.now(timezone.utc)
    append_records(priced, [row("publish")])
    assert [each.stage for each in records_since(priced, moment)] == ["publish"]


LONG_AGO = datetime(2020, 1, 1, tzinfo=timezone.utc)


def test_ingesting_and_publishing_are_stages_that_hold_the_cores(priced: Settings) -> None:
    records = [row("ingest", "orders", seconds=1800.0, files=3), row("publish", seconds=900.0, version=1)]
    ingested, published = stage_lines(priced, records, 1.0, cores=2)
    assert (ingested.subject, ingested.what, ingested.amount, ingested.basis) == ("orders", "ingest", 1.0, "held")
    assert (published.subject, published.amount, published.price) == ("churn", 0.5, pytest.approx(0.02))


def test_files_that_the_ledger_does_not_account_for_are_not_known(priced: Settings) -> None:
    from forecache.lake.ingest.ingested_files import IngestedFile, record_files

    now = datetime.now(timezone.utc)

    def entered(name: str) -> IngestedFile:
        return IngestedFile("orders", name, NIGHT, 1, now, "", 5, 5, 0, None, 0, now, "", "")

    record_files(priced, [entered("a.csv"), entered("b.csv"), entered("c.csv")])
    assert describe_unrecorded(priced, [row("ingest", "orders", files=3)], LONG_AGO) == []
    assert describe_unrecorded(priced, [row("ingest", "orders", files=1)], LONG_AGO) == [
        "What ingesting 2 of 3 files of orders took is not known."
    ]
    assert describe_unrecorded(priced, [], datetime(2100, 1, 1, tzinfo=timezone.utc)) == []
