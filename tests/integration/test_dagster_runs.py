"""Real runs through the runner: ranges, blocking checks, errors as they were, what the UI will read."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from forecache.base.errors import CheckError, InputError, NotFoundError, PipelinesFailedError
from forecache.base.results import StageResult
from forecache.base.settings import Settings, load_settings
from forecache.lake.ledger import StageRecord, append_records
from forecache.lake.quality.validate import CheckReport, CheckResult
from jobs.runner import run
from resources.instance import runner_instance
from resources.settings_resource import SettingsResource

SUPPORT = Path(__file__).parent.parent / "support"
DAYS = [date(2026, 1, day) for day in range(1, 7)]


def landed(home: Path) -> Settings:
    """Settings of the shop project with six landed days of two customers."""
    settings = load_settings(home=home, project="shop_project", spark_master="local[2]")
    for day in DAYS:
        land(settings, day, f"ann,{day},10", f"bob,{day},20")
    return settings


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Path:
    """A home whose landed days were ingested by a run, to be copied; uses the shared Spark session."""
    settings = landed(tmp_path_factory.mktemp("ingested") / "home")
    run(settings, pipelines=["orders"], job="ingest")
    return settings.home_path


@pytest.fixture
def shop(tmp_path: Path, ingested: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.syspath_prepend(str(SUPPORT))
    shutil.copytree(ingested, tmp_path / "home")
    return load_settings(home=tmp_path / "home", project="shop_project", spark_master="local[2]")


@pytest.fixture
def new_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: object) -> Settings:
    """A shop in which nothing has run."""
    monkeypatch.syspath_prepend(str(SUPPORT))
    return landed(tmp_path / "home")


def land(settings: Settings, day: date, *lines: str, suffix: str = "") -> None:
    folder = Path(settings.landing_uri) / "orders"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{day}{suffix}.csv").write_text("\n".join(["customer,day,amount", *lines]) + "\n")


@pytest.fixture
def instance(shop: Settings) -> Iterator[dg.DagsterInstance]:
    with runner_instance(shop) as opened:
        yield opened


@pytest.fixture
def new_instance(new_shop: Settings) -> Iterator[dg.DagsterInstance]:
    with runner_instance(new_shop) as opened:
        yield opened


def checks_of(instance: dg.DagsterInstance, asset: str, check: str) -> dict[str | None, bool]:
    """The last evaluation of a check for each partition."""
    records = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey(asset), check), limit=100
    )
    found: dict[str | None, bool] = {}
    for entry in reversed(records):
        evaluation = entry.event.dagster_event.asset_check_evaluation_data
        found[evaluation.partition] = evaluation.passed
    return found


def test_all_landing_days_are_one_run_with_counts_and_verdicts_by_day(
    new_shop: Settings, new_instance: dg.DagsterInstance
) -> None:
    land(new_shop, DAYS[2], "ann,2026-01-03,-5", "eve,2026-01-03,700", suffix=".2")
    ended: list[StageResult] = []
    results = run(new_shop, pipelines=["orders"], job="ingest", on_stage=ended.append)
    assert [(r.stage, r.rows) for r in results] == [("ingest", 14)]
    assert ended == results
    (only,) = new_instance.get_runs()
    assert only.job_name == "orders_ingest"
    assert only.remote_job_origin is not None
    assert only.remote_job_origin.repository_origin.code_location_origin.location_name == "forecache"
    assert checks_of(new_instance, "raw_orders", "meets_expectations") == {d.isoformat(): True for d in DAYS}
    assert checks_of(new_instance, "raw_orders", "has_no_warnings")["2026-01-03"] is False
    assert checks_of(new_instance, "raw_orders", "has_no_warnings")["2026-01-02"] is True
    assert checks_of(new_instance, "raw_orders", "adds_up_to_what_landed") == {d.isoformat(): True for d in DAYS}
    rows = {
        record.partition_key: record.asset_materialization.metadata["dagster/row_count"].value
        for record in new_instance.fetch_materializations(dg.AssetKey("raw_orders"), limit=10).records
        if record.asset_materialization
    }
    assert rows["2026-01-03"] == 3
    assert rows["2026-01-04"] == 2

    again = run(new_shop, pipelines=["orders"], job="ingest")
    assert [(r.stage, r.skipped) for r in again] == [("ingest", True)]


def test_a_failed_check_stops_the_night_and_its_reason_is_the_error(
    shop: Settings, instance: dg.DagsterInstance
) -> None:
    land(shop, DAYS[4], "ann,2026-01-05,5000", suffix=".2")
    results: list[StageResult] = []
    with pytest.raises(CheckError, match=r"features_orders for 2026-01-05 fails 1 of .*spent must be at most 1,000"):
        run(shop, pipelines=["orders"], nights=(DAYS[3], DAYS[5]), job="nightly", on_stage=results.append)
    assert [r.stage for r in results] == ["ingest", "features"]
    nightly = instance.get_runs()[0]
    assert nightly.status == dg.DagsterRunStatus.FAILURE
    # One run for three nights; the good one is told from the bad ones.
    assert checks_of(instance, "features_orders", "meets_expectations") == {
        "2026-01-04": True,
        "2026-01-05": False,
        "2026-01-06": False,
    }
    # Materialized all the same, which is why the publisher asks for the verdict.
    assert instance.get_latest_materialization_event(dg.AssetKey("features_orders")) is not None
    assert instance.get_latest_materialization_event(dg.AssetKey("predictions_orders")) is None


def test_without_a_champion_scoring_says_so_and_is_not_retried(shop: Settings, instance: dg.DagsterInstance) -> None:
    started = time.monotonic()
    with pytest.raises(NotFoundError, match="'orders' has no champion yet"):
        run(shop, pipelines=["orders"])
    assert time.monotonic() - started < 120
    events = [e.dagster_event for e in instance.all_logs(instance.get_runs()[0].run_id) if e.dagster_event]
    assert not [e for e in events if e.event_type_value == "STEP_UP_FOR_RETRY"]
    (failure,) = [e for e in events if e.event_type_value == "STEP_FAILURE"]
    assert "has no champion yet" in failure.step_failure_data.error_display_string


def test_a_late_file_makes_later_nights_stale_and_the_check_says_which(
    shop: Settings, instance: dg.DagsterInstance
) -> None:
    with pytest.raises(NotFoundError):
        run(shop, pipelines=["orders"], nights=(DAYS[1], DAYS[4]))
    current = dict.fromkeys((d.isoformat() for d in DAYS[1:5]), True)
    assert checks_of(instance, "features_orders", "is_current") == current
    land(shop, DAYS[2], "zoe,2026-01-03,1", suffix=".late")
    with pytest.raises(NotFoundError):
        run(shop, pipelines=["orders"], nights=(DAYS[4], DAYS[4]))
    stale = {"2026-01-03": False, "2026-01-04": False}
    assert checks_of(instance, "features_orders", "is_current") == current | stale


@pytest.fixture
def two_shops(shop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The shop beside a pipeline of the same orders whose feature function fails."""
    folder = tmp_path / "two_shops" / "pipelines"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "orders.py").write_text("from shop_project.pipelines.orders import orders\n")
    (folder / "failing.py").write_text(
        "from dataclasses import replace\nfrom shop_project.pipelines.orders import orders as whole\n"
        "def fail(events): raise ZeroDivisionError('none of it')\n"
        "failing = replace(whole, name='failing', features=replace(whole.features, compute=fail))\ndel whole\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return shop.model_copy(update={"project": "two_shops"})


@pytest.mark.slow
def test_a_pipeline_that_fails_does_not_stop_the_others_and_rebuild_does_again_what_is_current(
    two_shops: Settings, instance: dg.DagsterInstance
) -> None:
    for rebuild, skipped in ((False, False), (False, True), (True, False)):
        results: list[StageResult] = []
        with pytest.raises(
            PipelinesFailedError, match=r"2 of 2 failed\. failing: ZeroDivisionError: none of it; orders: "
        ) as told:
            run(two_shops, pipelines=["failing", "orders"], on_stage=results.append, rebuild=rebuild)
        assert isinstance(told.value.failures["orders"], NotFoundError)  # no champion: its features were built before
        built = [(r.subject, r.skipped) for r in results if r.stage == "features"]
        assert built == [("orders", skipped)]


@pytest.mark.parametrize("night", [date(2025, 12, 31), date(2026, 1, 7)])
def test_a_night_outside_the_data_is_refused_before_anything_runs(new_shop: Settings, night: date) -> None:
    with pytest.raises(InputError, match=f"{night} lies outside 'orders'.*2026-01-01 to 2026-01-06"):
        run(new_shop, pipelines=["orders"], nights=(night, night))
    assert not new_shop.dagster_home.exists()


def test_a_night_that_failed_its_check_is_not_published(shop: Settings) -> None:
    from assets.published import build_published
    from forecache.declare import load_pipeline
    from forecache.kit.delta.tables import append_rows

    orders = load_pipeline(shop, "orders")
    rows = pa.table({"as_of": pa.array([DAYS[5]], pa.date32()), "next_spend": pa.array([None], pa.float64())})
    append_rows(shop, "predictions_orders", rows, partition_by=["as_of"])
    failed = CheckResult("expect_x", "next_spend", "critical", False, "next_spend must not be null: 3 rows do not.")
    report = CheckReport("predictions_orders for 2026-01-06", (failed,), 10, 0.1)
    scored = StageRecord("score", "orders", DAYS[5], "in", "predictions_orders", 1, 10, 0.1)
    checked = StageRecord("check", "predictions_orders", DAYS[5], "in", "", -1, 10, 0.1, report.to_dict())
    append_records(shop, [scored, checked])
    resource = SettingsResource(home=str(shop.home_path), project=shop.project)
    with pytest.raises(dg.Failure, match="2026-01-06 .*failed its check.*must not be null"):
        dg.materialize([build_published(orders)], resources={"settings": resource})


@pytest.mark.slow
def test_a_killed_run_is_closed_by_the_next_and_an_interrupt_ends_with_a_failed_run(
    new_shop: Settings, new_instance: dg.DagsterInstance
) -> None:
    code = (
        "import time; from forecache.base.settings import load_settings; from jobs.runner import run\n"
        "def stay(message, share=None):\n"
        "    print(message, flush=True)\n"
        "    'reading' in message and time.sleep(600)\n"
        "run(load_settings(spark_master='local[1]', spark_driver_memory='1g'), pipelines=['orders'], job='ingest',"
        "    progress=stay)"
    )
    environment = {
        **os.environ,
        "FORECACHE_HOME": str(new_shop.home_path),
        "FORECACHE_PROJECT": "shop_project",
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path]),
    }
    statuses = {}
    for number in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        while "reading" not in (line := process.stdout.readline()):
            assert line, "the runner ended before it read anything"
        process.send_signal(number)
        _, errors = process.communicate(timeout=90)
        assert process.returncode != 0
        assert ("KeyboardInterrupt" in errors) is (number == signal.SIGINT)
        statuses[number] = new_instance.get_runs()[0].status
    assert statuses == {signal.SIGKILL: dg.DagsterRunStatus.STARTED, signal.SIGINT: dg.DagsterRunStatus.FAILURE}
    run(new_shop, pipelines=["orders"], job="ingest")
    by_age = [entry.status for entry in reversed(new_instance.get_runs())]
    assert by_age[0] == dg.DagsterRunStatus.FAILURE
    assert by_age[-1] == dg.DagsterRunStatus.SUCCESS
