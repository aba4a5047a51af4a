"""Dagster's instance in a real PostgreSQL: runs, events and their notifications, and no password in a file."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster._core.events import RunFailureReason
from dagster._core.execution.retries import auto_reexecution_should_retry_run
from store_services import postgres_server

from forecache.base.errors import SettingsError
from forecache.base.settings import load_settings
from jobs.schedules import partition_tags
from resources.instance import ensure_instance, runner_instance
from resources.own_runs import process_tags

PASSWORD = "orchard:7"
DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01")
RECIPE = "storage:\n  postgres:\n    postgres_url: {env: SHOP_DAGSTER_URL}\n"


@dg.multi_asset(
    specs=[dg.AssetSpec("good"), dg.AssetSpec("bad")],
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("first", asset="good", partitions_def=DAYS)],
)
def stage(context: dg.AssetExecutionContext) -> Iterator[Any]:
    from assets import checks

    yield dg.MaterializeResult("good", metadata={"seconds": 1})
    yield dg.MaterializeResult("bad")
    verdicts = {
        date.fromisoformat(key): checks.CheckVerdict(key[-1] != "3", f"about {key}") for key in context.partition_keys
    }
    yield from checks.check_events(context, "good", "first", verdicts)


defs = dg.Definitions(assets=[stage])


def run(instance: dg.DagsterInstance) -> str:
    """Run the stage for ten nights; returns the run's id."""
    job = defs.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=instance, tags=partition_tags(date(2024, 1, 2), date(2024, 1, 11)))
    assert done.success
    return done.run_id


def history(instance: dg.DagsterInstance, run_id: str) -> list[Any]:
    """What an instance knows of a run: its events by kind, asset and partition, and each asset's and check's nights."""
    events: list[Any] = sorted(
        (event.dagster_event.event_type_value, str(event.dagster_event.asset_key), str(event.dagster_event.partition))
        for event in instance.all_logs(run_id)
        if event.dagster_event is not None
    )
    for name in ("good", "bad"):
        key = dg.AssetKey(name)
        [record] = instance.get_asset_records([key])
        assert record.asset_entry.last_run_id == run_id
        assert record.asset_entry.last_materialization is not None
        events.append(sorted(instance.get_materialized_partitions(key)))
    return events


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database as an operator writes it, with a password that URLs must quote."""
    with postgres_server(tmp_path_factory.mktemp("pg") / "server", password=PASSWORD) as url:
        yield url.replace(PASSWORD, "orchard%3A7")


@pytest.fixture
def database(postgres: str) -> str:
    """A database of its own for each test."""
    name = f"dagster_{secrets.token_hex(4)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return f"{postgres.rpartition('/')[0]}/{name}"


def test_a_run_on_postgresql_records_what_it_records_in_sqlite_and_notifies(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORECACHE_DAGSTER_URI", raising=False)
    with runner_instance(load_settings(home=tmp_path / "alone")) as instance:
        expected = history(instance, run(instance))
    assert len(expected) > 40
    monkeypatch.setenv("FORECACHE_DAGSTER_URI", database)
    settings = load_settings(home=tmp_path / "home")
    with psycopg.connect(database, autocommit=True) as listening:
        listening.execute("listen run_events")
        with runner_instance(settings) as instance:
            made = run(instance)
            assert history(instance, made) == expected
        assert next(listening.notifies(timeout=60)).payload.startswith(made)
        [[count]] = listening.execute("select count(*) from event_logs where run_id = %s", [made]).fetchall()
    assert count >= len(expected) - 2
    with runner_instance(load_settings(home=tmp_path / "another machine")) as instance:
        assert history(instance, made) == expected
    assert not (settings.dagster_home / "history" / "runs").exists()


@pytest.mark.slow
def test_a_process_that_dagster_starts_finds_the_database_and_no_file_has_its_password(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_DAGSTER_URI", database)
    home = ensure_instance(load_settings(home=tmp_path / "home"))
    command = [
        Path(sys.executable).with_name("dagster"),
        "asset",
        "materialize",
        "-f",
        __file__,
        "--select",
        "good,bad",
    ]
    done = subprocess.run(
        [*command, "--partition", "2024-01-02"],
        env={**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with runner_instance(load_settings(home=tmp_path / "home")) as instance:
        assert instance.get_materialized_partitions(dg.AssetKey("bad")) == {"2024-01-02"}
        sent = str(instance.get_ref())  # on the command lines of processes that Dagster starts
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    assert files
    for secret in ("orchard:7", "orchard%3A7"):
        assert secret not in sent
        assert not any(secret.encode() in content for content in files)


def project_with(folder: Path, instance: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project with a `dagster.yaml` of its own; returns its name."""
    name = f"orchard_{folder.name}".replace("-", "_")
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    (folder / name / "dagster.yaml").write_text(instance)
    monkeypatch.syspath_prepend(folder)
    return name


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2"])
def test_a_project_s_own_storage_with_a_driver_that_dagster_does_not_take_is_refused_when_it_is_opened(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.delenv("FORECACHE_DAGSTER_URI", raising=False)
    monkeypatch.setenv("SHOP_DAGSTER_URL", database.replace("postgresql", scheme, 1))
    settings = load_settings(home=tmp_path / "home", project=project_with(tmp_path, RECIPE, monkeypatch))
    if scheme == "postgresql":
        with pytest.raises(SettingsError, match="need psycopg2"), runner_instance(settings) as instance:
            run(instance)
    else:
        with runner_instance(settings) as instance:
            run(instance)


def test_a_project_s_own_instance_without_a_place_for_the_database_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_DAGSTER_URI", "postgresql://shop:orchard@db/dagster")
    project = project_with(tmp_path, "telemetry:\n  enabled: false\n", monkeypatch)
    with pytest.raises(SettingsError, match="does not take it") as refused:
        ensure_instance(load_settings(home=tmp_path / "home", project=project))
    assert "orchard@" not in str(refused.value)


def test_runs_at_once_have_limits_and_only_one_whose_process_was_lost_is_run_again(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_DAGSTER_URI", database)
    monkeypatch.setenv("FORECACHE_DAGSTER_RUNS", "5")
    settings = load_settings(home=tmp_path / "home")
    with runner_instance(settings) as instance:
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 5
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
        assert (instance.run_retries_enabled, instance.run_retries_max_retries) == (True, 2)
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert [(pool.name, pool.limit) for pool in instance.event_log_storage.get_pool_limits()] == [("spark", 5)]
    monkeypatch.setenv("FORECACHE_DAGSTER_RUNS", "10")
    with runner_instance(load_settings(home=tmp_path / "home")) as instance:
        assert [(pool.name, pool.limit) for pool in instance.event_log_storage.get_pool_limits()] == [("spark", 10)]
        instance.event_log_storage.set_concurrency_slots("spark", 2)
        for _ in ("a run", "another one that has not seen that pool"):
            assert instance.event_log_storage.initialize_concurrency_limit_to_default("training")

        def is_run_again(reason: RunFailureReason | None, tags: dict[str, str]) -> bool:
            job, failure = defs.resolve_implicit_global_asset_job_def(), dg.DagsterRunStatus.FAILURE
            failed = instance.create_run_for_job(job, tags=tags, status=failure)
            return auto_reexecution_should_retry_run(instance, failed, reason)

        assert is_run_again(None, {})
        assert not is_run_again(RunFailureReason.STEP_FAILURE, {})
        assert not is_run_again(None, process_tags()), "who called `forecache run` does that"
    with runner_instance(load_settings(home=tmp_path / "another machine")) as instance:
        limits = [(pool.name, pool.limit) for pool in instance.event_log_storage.get_pool_limits()]
        assert limits == [("spark", 2), ("training", 1)], "what an operator has set stays"
    monkeypatch.delenv("FORECACHE_DAGSTER_URI")
    monkeypatch.delenv("FORECACHE_DAGSTER_RUNS")
    with runner_instance(load_settings(home=tmp_path / "alone")) as instance:
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 1
        assert instance.get_concurrency_config().pool_config.default_pool_limit is None
        assert not instance.run_retries_enabled
