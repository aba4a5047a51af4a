"""Dagster's processes one by one over a real PostgreSQL, as on several machines, and the migration before them."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from free_ports import free_port
from store_services import postgres_server
from waiting import eventually

from forecache.base.settings import load_settings
from forecache.models.tracking.client import upgrade_database

FIRST_MLFLOW = "451aebb31d03"
"""The oldest revision of MLflow's tables."""
HEALTH = """{ instance { daemonHealth { allDaemonStatuses { daemonType healthy required } } }
  locationStatusesOrError { ... on WorkspaceLocationStatusEntries { entries { name loadStatus } } }
  repositoriesOrError { ... on RepositoryConnection { nodes { location { name } jobs { name } } } } }"""


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres_server(tmp_path_factory.mktemp("pg") / "server", password="orchard7") as url:
        yield url


@pytest.fixture
def databases(postgres: str) -> dict[str, str]:
    """The two settings of a cluster's databases, which are empty."""
    names = {name: f"{name}_{secrets.token_hex(4)}" for name in ("dagster", "mlflow")}
    with psycopg.connect(postgres, autocommit=True) as connection:
        for name in names.values():
            connection.execute(f"create database {name}")
    return {f"FORECACHE_{name.upper()}_URI": f"{postgres.rpartition('/')[0]}/{own}" for name, own in names.items()}


def tables(url: str) -> dict[str, int]:
    """The number of columns of each table."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select table_name, count(*) from information_schema.columns where table_schema = 'public' group by 1"
        ).fetchall()
    return dict(rows)


def revision(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("select version_num from alembic_version").fetchone()
    assert row is not None
    return str(row[0])


def environment(home: Path, databases: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **databases, "FORECACHE_HOME": str(home)}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "forecache.cli.main", *arguments]


def migrate(home: Path, databases: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command("migrate"), env=environment(home, databases), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_the_migration_makes_both_databases_on_an_empty_disk_and_two_at_once_are_one(
    tmp_path: Path, databases: dict[str, str]
) -> None:
    for process in [migrate(tmp_path / name, databases) for name in ("one", "two")]:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert [line.split()[0] for line in output.splitlines()] == ["Dagster's", "MLflow's"]
    made = [tables(url) for url in databases.values()]
    assert {"runs", "event_logs", "jobs"} <= set(made[0])
    assert {"registered_models", "model_versions"} <= set(made[1])
    assert all(url not in path.read_text() for path in tmp_path.rglob("*.yaml") for url in databases.values())


def test_tables_of_an_earlier_mlflow_become_those_of_this_one(databases: dict[str, str]) -> None:
    from alembic import command as alembic
    from mlflow.store.db import utils
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
    from sqlalchemy import create_engine

    uri = load_settings(mlflow_uri=databases["FORECACHE_MLFLOW_URI"]).mlflow_tracking_uri
    engine = create_engine(uri)
    InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:
        config = utils._get_alembic_config(str(engine.url))
        config.attributes["connection"] = connection
        alembic.upgrade(config, FIRST_MLFLOW)
    assert revision(databases["FORECACHE_MLFLOW_URI"]) == FIRST_MLFLOW
    upgrade_database(uri)
    assert revision(databases["FORECACHE_MLFLOW_URI"]) == utils._get_latest_schema_revision()
    assert set(Base.metadata.tables) <= set(tables(databases["FORECACHE_MLFLOW_URI"]))
    engine.dispose()


@contextmanager
def running(home: Path, databases: dict[str, str], *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """One of Dagster's processes on a machine of its own; it ends by SIGTERM."""
    home.mkdir()
    with (home / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command("dagster", *arguments), env=environment(home, databases), stdout=output, stderr=output, cwd=home
        )
        try:
            yield process
            assert process.poll() is None, (home / "output.txt").read_text()
            process.terminate()
            process.wait(timeout=120)
        finally:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_code_daemon_and_webserver_on_machines_of_their_own_are_one_dagster(
    tmp_path: Path, databases: dict[str, str]
) -> None:
    served, port = f"127.0.0.1:{free_port()}", free_port()
    url = f"http://127.0.0.1:{port}/graphql"

    def ask() -> dict[str, list[dict[str, object]]]:
        try:
            data = httpx.post(url, json={"query": HEALTH}, timeout=30).json()["data"]
        except httpx.TransportError:
            return {}
        return {
            "locations": data["locationStatusesOrError"]["entries"],
            "repositories": data["repositoriesOrError"].get("nodes", []),
            "daemons": data["instance"]["daemonHealth"]["allDaemonStatuses"],
        }

    with (
        running(tmp_path / "code", databases, "code", "--port", served.rpartition(":")[2]),
        running(tmp_path / "webserver", databases, "webserver", "--port", str(port), "--code", served),
        running(tmp_path / "daemon", databases, "daemon", "--code", served),
    ):
        known: dict[str, list[dict[str, object]]] = {}

        def is_well() -> bool:
            known.update(ask())
            return bool(known.get("repositories")) and all(
                each["healthy"] for each in known["daemons"] if each["required"]
            )

        assert eventually(is_well, 360), known
    assert known["locations"] == [{"name": "forecache", "loadStatus": "LOADED"}]
    [repository] = known["repositories"]
    jobs = repository["jobs"]
    assert isinstance(jobs, list)
    assert "churn_nightly" in {job["name"] for job in jobs}


def test_a_machine_without_dagster_says_which_extra_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.cli.main import main

    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert main(["dagster", "code"]) == 7
    assert "Install the extra `dagster` or `cluster`." in capsys.readouterr().err
