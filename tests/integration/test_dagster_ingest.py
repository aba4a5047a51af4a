"""Dagster says which landing days are there and which are not, and its nightly job ingests what waits."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from shop_project.pipelines.orders import ORDERS

from assets.checks import EXPECTATIONS
from forecache.base.errors import CheckError, InputError, NotFoundError
from forecache.base.settings import Settings, load_settings
from forecache.cli.commands import run as run_commands
from forecache.cli.main import main
from forecache.kit.delta.tables import open_table
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.ingested_files import delivered_days, ingested_files, record_files
from jobs.runner import JobRunner, run
from resources.instance import runner_instance
from resources.session import RunSession

DAYS = [date(2026, 1, day) for day in range(1, 7)]


@pytest.fixture
def shop(tmp_path: Path, spark: object) -> Settings:
    return load_settings(home=tmp_path / "home", project="shop_project", spark_master="local[2]")


@pytest.fixture
def instance(shop: Settings) -> Iterator[dg.DagsterInstance]:
    with runner_instance(shop) as opened:
        yield opened


def land(settings: Settings, *days: date, suffix: str = ".csv", content: str | None = None) -> None:
    folder = Path(settings.landing_uri) / "orders"
    folder.mkdir(parents=True, exist_ok=True)
    for day in days:
        text = f"customer,day,amount\nann,{day},10\n" if content is None else content
        (folder / f"{day}{suffix}").write_text(text)


def launch(settings: Settings, instance: dg.DagsterInstance, job: str, first: date, last: date) -> None:
    JobRunner(settings, instance, RunSession(settings, lambda *_: None, lambda _: None)).run_job(
        job, nights=(first, last)
    )


def materialized(instance: dg.DagsterInstance, table: str) -> set[str]:
    return set(instance.get_materialized_partitions(dg.AssetKey(table)))


def last_check(instance: dg.DagsterInstance, asset: str, check: str) -> dict[str | None, tuple[bool, str]]:
    found: dict[str | None, tuple[bool, str]] = {}
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    for entry in reversed(instance.event_log_storage.get_asset_check_execution_history(key, limit=100)):
        evaluation: Any = entry.event and entry.event.dagster_event and entry.event.dagster_event.event_specific_data
        if isinstance(evaluation, dg.AssetCheckEvaluation):  # not one that was planned and had nothing to say
            found[evaluation.partition] = evaluation.passed, evaluation.description
    return found


def test_the_nightly_job_ingests_what_landed_up_to_its_night(shop: Settings, instance: dg.DagsterInstance) -> None:
    land(shop, *DAYS)
    with pytest.raises(NotFoundError, match="has no champion yet"):
        launch(shop, instance, "orders_nightly", DAYS[2], DAYS[3])
    assert delivered_days(ingested_files(shop, ORDERS)) == set(DAYS[:4])
    expected = {day.isoformat() for day in DAYS[:4]}
    assert materialized(instance, "raw_orders") == materialized(instance, "quarantine_orders") == expected
    assert materialized(instance, "features_orders") == {day.isoformat() for day in DAYS[2:4]}
    assert {
        day for day, (ok, _) in last_check(instance, "raw_orders", "adds_up_to_what_landed").items() if ok
    } == expected


def test_a_raw_table_is_ingested_and_checked_without_spark(
    shop: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecache.kit.spark.session.spark_session", lambda _: pytest.fail("Spark was started"))
    land(shop, *DAYS[:2])
    launch(shop, instance, "orders_ingest", DAYS[0], DAYS[1])
    assert {day for day, (ok, _) in last_check(instance, "raw_orders", EXPECTATIONS).items() if ok} == {
        day.isoformat() for day in DAYS[:2]
    }


def test_a_day_is_materialized_only_where_a_file_was_read(shop: Settings, instance: dg.DagsterInstance) -> None:
    land(shop, DAYS[0], DAYS[3])
    land(shop, DAYS[1], content="customer,day\n")
    land(shop, DAYS[3], suffix=".2.csv", content="")
    launch(shop, instance, "orders_ingest", DAYS[0], DAYS[4])
    launch(shop, instance, "orders_ingest", DAYS[2], DAYS[2])
    there = {DAYS[0].isoformat(), DAYS[3].isoformat()}
    assert materialized(instance, "raw_orders") == materialized(instance, "quarantine_orders") == there
    assert last_check(instance, "raw_orders", "files_are_read") == {
        "2026-01-01": (True, "Every landing file was read."),
        "2026-01-02": (False, "1 in quarantine: 2026-01-02.csv: the column 'amount' is missing."),
        "2026-01-04": (False, "1 in quarantine: 2026-01-04.2.csv: the file is empty."),
    }
    launch(shop, instance, "orders_ingest", DAYS[1], DAYS[1])
    assert materialized(instance, "raw_orders") == there


def run_ranges(instance: dg.DagsterInstance) -> list[tuple[str, str]]:
    """First and last day of each run, in the order they began."""
    start, end = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    tags = [run.tags for run in reversed(instance.get_runs())]
    return [(tag.get(start) or tag["dagster/partition"], tag.get(end) or tag["dagster/partition"]) for tag in tags]


@pytest.mark.slow
def test_days_without_a_landing_file_do_not_split_an_ingestion(shop: Settings, instance: dg.DagsterInstance) -> None:
    land(shop, DAYS[0], DAYS[3])
    run(shop, sources=["orders"], job="ingest")
    assert run_ranges(instance) == [("2026-01-01", "2026-01-04")]
    assert materialized(instance, "raw_orders") == {"2026-01-01", "2026-01-04"}
    land(shop, DAYS[1], DAYS[2], DAYS[5])  # the fourth day, which is ingested, is left alone
    run(shop, pipelines=["orders"], job="ingest")
    assert run_ranges(instance)[1:] == [("2026-01-02", "2026-01-03"), ("2026-01-06", "2026-01-06")]
    assert delivered_days(ingested_files(shop, ORDERS)) == {*DAYS[:4], DAYS[5]}


@pytest.mark.slow
def test_a_source_is_ingested_by_its_name_and_files_of_other_days_are_named(
    shop: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_commands, "settings", lambda: shop)
    land(shop, DAYS[0], DAYS[3])
    assert main(["ingest", "orders", "--date", "2026-01-04"]) == 0
    assert delivered_days(ingested_files(shop, ORDERS)) == {DAYS[3]}
    waits = "! Not read yet: 1 landing file of orders, of 2026-01-01. `forecache ingest orders` reads all."
    assert waits in capsys.readouterr().err
    assert main(["ingest", "orders"]) == 0
    assert delivered_days(ingested_files(shop, ORDERS)) == {DAYS[0], DAYS[3]}
    assert "Not read yet" not in capsys.readouterr().err
    assert main(["ingest", "ordres"]) == 3
    told = capsys.readouterr().err
    assert "source with landing files 'ordres'. Did you mean 'orders'?" in told


def test_days_are_materialized_although_another_file_failed_the_run_or_nobody_told_dagster(
    shop: Settings, instance: dg.DagsterInstance, spark: Any
) -> None:
    land(shop, DAYS[0], DAYS[1])
    ingest(shop, ORDERS)
    land(shop, DAYS[1], content="customer,day,amount\nbob,2026-01-02,70\n")
    land(shop, DAYS[2])
    with pytest.raises(InputError, match=r"'2026-01-02\.csv' of source 'orders' has changed"):
        launch(shop, instance, "orders_ingest", DAYS[1], DAYS[2])
    # The changed file's day is the run's and failed; the others are there.
    assert {DAYS[0].isoformat(), DAYS[2].isoformat()} <= materialized(instance, "raw_orders")


def spent(settings: Settings, night: date) -> dict[str, float]:
    rows = open_table(settings, "features_orders").to_pyarrow_table(filters=[("as_of", "=", night)]).to_pylist()
    return {row["customer"]: row["spent"] for row in rows}


@pytest.mark.slow
def test_a_day_that_a_check_refuses_holds_up_every_run_until_its_file_is_corrected(
    shop: Settings, instance: dg.DagsterInstance, spark: Any
) -> None:
    land(shop, *DAYS[:3])
    land(shop, DAYS[1], content="customer,day,amount\nann,2026-01-02,9000\n")
    ingest(shop, ORDERS)  # a run that was killed before its checks leaves this
    (lost,) = [file for file in ingested_files(shop, ORDERS) if file.event_day == DAYS[0]]
    record_files(shop, [replace(lost, landing_rows=9)])
    with pytest.raises(CheckError, match=r"2026-01-01\.csv has 9 rows, of which 1 are in raw_orders"):
        launch(shop, instance, "orders_nightly", DAYS[2], DAYS[2])
    land(shop, DAYS[0])  # the same content at another time: it is read again
    with pytest.raises(CheckError, match=r"amount must be .*5,?000.*Correct the landing files of 2026-01-02"):
        launch(shop, instance, "orders_training", DAYS[2], DAYS[2])
    assert materialized(instance, "features_orders") == set()
    land(shop, DAYS[1], content="customer,day,amount\nann,2026-01-02,90\n")
    with pytest.raises(NotFoundError, match="has no champion yet"):
        launch(shop, instance, "orders_nightly", DAYS[2], DAYS[2])
    assert spent(shop, DAYS[2]) == {"ann": 110.0}
    for check in ("meets_expectations", "adds_up_to_what_landed"):
        verdicts = last_check(instance, "raw_orders", check)
        assert {day for day, (passed, _) in verdicts.items() if passed} == {day.isoformat() for day in DAYS[:3]}


def test_an_empty_landing_zone_and_files_that_wait_are_named_with_what_to_do(
    shop: Settings, instance: dg.DagsterInstance
) -> None:
    from forecache.lake.ingest.ingested_files import require_days

    with pytest.raises(InputError, match=r"2026-01-06 is empty: .*Land a file for 2026-01-06 in .*/landing/orders"):
        run(shop, pipelines=["orders"])
    assert materialized(instance, "raw_orders") == set()
    land(shop, DAYS[5])
    with pytest.raises(InputError, match=r"'2026-01-06\.csv' of source 'orders' has not been ingested.*orders_landed"):
        require_days(shop, ORDERS, [DAYS[5]])


def test_files_whose_names_match_nothing_are_named(shop: Settings, instance: dg.DagsterInstance) -> None:
    land(shop, DAYS[0])
    land(shop, DAYS[1], suffix=".CSV")
    run(shop, pipelines=["orders"], job="ingest")
    ((passed, reason),) = last_check(instance, "landing_orders", "names_match").values()
    assert not passed
    assert "1 of 2 files match no day" in reason
    assert "2026-01-02.CSV" in reason
    assert materialized(instance, "raw_orders") == {"2026-01-01"}
