"""`forecache doctor`: what is missing is named with the remedy."""

import json
import os
import socket
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from reader_support import churn_rows, write_version

from forecache.base.errors import DamagedError, UnavailableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import load_settings
from forecache.cli.main import main
from forecache.kit import lease
from forecache.kit.installation import hold_exclusively, open_lake
from forecache.kit.lease import hold_lease
from forecache.kit.process import wakes
from forecache.plugins.doctor import checks, shared_services
from forecache.serve.store import Store, push


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_fresh_home_has_warnings_and_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = findings(capsys)
    assert found["lake"]["state"] == "warn"
    assert "forecache demo" in found["lake"]["remedy"]
    assert found["pipelines"]["state"] == "ok"


def test_missing_java_fails_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("FORECACHE_ENGINE", "spark")
    assert main(["doctor", "--json"]) == 1
    java = findings(capsys)["java"]
    assert java["state"] == "fail"
    assert "openjdk-17" in java["remedy"]


def test_missing_java_and_jars_are_no_fault_of_a_project_that_needs_no_spark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("JAVA_HOME", "SPARK_JARS"):
        monkeypatch.setenv(f"FORECACHE_{name}", str(tmp_path / "nothing"))
    for project, state in (("shelf_project", "ok"), ("till_project", "fail")):
        monkeypatch.setenv("FORECACHE_PROJECT", project)
        main(["doctor", "--json"])
        found = findings(capsys)
        assert (found["java"]["state"], found["spark jars"]["state"]) == (state, state)
    monkeypatch.setenv("FORECACHE_PROJECT", "shelf_project")
    monkeypatch.setenv("FORECACHE_ENGINE", "spark")
    main(["doctor", "--json"])
    assert findings(capsys)["java"]["state"] == "fail"


def test_java_of_a_version_that_spark_refuses_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "java"
    fake.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    fake.chmod(0o755)
    monkeypatch.setenv("FORECACHE_JAVA_HOME", str(tmp_path))
    assert main(["doctor", "--json"]) == 1
    assert findings(capsys)["java"]["found"].startswith("Java 11 ")


def test_missing_jars_fail_with_make_setup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_SPARK_JARS", str(tmp_path))
    monkeypatch.setenv("FORECACHE_ENGINE", "spark")
    assert main(["doctor", "--json"]) == 1
    assert "make setup" in findings(capsys)["spark jars"]["remedy"]


def test_port_in_use_is_a_warning_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("FORECACHE_READER_PORT", str(taken.getsockname()[1]))
        assert main(["doctor", "--json"]) == 0
    port = findings(capsys)["reader port"]
    assert port["state"] == "warn"
    assert "FORECACHE_READER_PORT" in port["remedy"]


def test_wrong_setting_is_the_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORECACHE_TRAINING_WORKERS", "0")
    assert main(["doctor"]) == 1
    assert "FORECACHE_TRAINING_WORKERS" in capsys.readouterr().out


def test_damaged_mlflow_database_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database = tmp_path / "home" / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(b"not a database" * 100)
    assert main(["doctor", "--json"]) == 1
    assert findings(capsys)["mlflow"]["state"] == "fail"
    assert main(["models", "churn"]) == DamagedError.exit_code
    assert f"MLflow's database {database} is damaged: file is not a database." in capsys.readouterr().err


def test_project_with_a_broken_module_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A name that no other test imports: modules stay in the process.
    package = tmp_path / "doctor_project" / "pipelines"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "bad.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FORECACHE_PROJECT", "doctor_project")
    assert main(["doctor", "--json"]) == 1
    assert "doctor_project.pipelines.bad" in findings(capsys)["pipelines"]["found"]


def test_source_whose_table_or_database_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "support"))
    monkeypatch.setenv("FORECACHE_PROJECT", "database_project")
    assert main(["doctor", "--json"]) == 1
    found = findings(capsys)["sources"]
    assert found["state"] == "fail"
    assert "Source 'sales' queries the database 'shop', which FORECACHE_DATABASES does not have" in found["found"]
    monkeypatch.setenv("FORECACHE_DATABASES", json.dumps({"shop": "sqlite://"}))
    main(["doctor", "--json"])
    assert findings(capsys)["sources"]["found"] == "0 existing tables and 1 queried databases answer"

    package = tmp_path / "reads_nothing" / "pipelines"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "spending.py").write_text((Path(__file__).parent.parent / "support" / "table_project.py").read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "reads_nothing")
    assert main(["doctor", "--json"]) == 1
    assert "there is no Delta table in /no/table" in findings(capsys)["sources"]["found"]


def test_the_mail_server_is_asked_where_a_mailing_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from letters import smtp_server

    monkeypatch.setenv("FORECACHE_PROJECT", "shelf_project")
    main(["doctor", "--json"])
    found = findings(capsys)["mail"]
    assert (found["state"], found["found"]) == ("warn", "no SMTP server is set for letters")
    monkeypatch.setenv("FORECACHE_SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("FORECACHE_SMTP_SECURITY", "none")
    with smtp_server(tmp_path / "record") as port:
        monkeypatch.setenv("FORECACHE_SMTP_PORT", str(port))
        main(["doctor", "--json"])
        assert findings(capsys)["mail"]["state"] == "ok"
    assert main(["doctor", "--json"]) == 1
    found = findings(capsys)["mail"]
    assert found["state"] == "fail"
    assert f"The SMTP server 127.0.0.1:{port} cannot be used" in found["found"]


def test_what_lies_on_one_machine_alone_beside_a_lake_in_a_bucket_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("FORECACHE_STORAGE_OPTIONS", '{"AWS_ENDPOINT_URL": "http://127.0.0.1"}')
    assert shared_services.check_machines(load_settings()).state == "ok"
    monkeypatch.setenv("FORECACHE_LAKE", "s3://cloud/lake")
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", "s3://cloud/store")
    found = shared_services.check_machines(load_settings())
    named = "FORECACHE_MLFLOW_URI, FORECACHE_MLFLOW_ARTIFACTS, FORECACHE_DAGSTER_URI"
    assert (found.state, found.found.partition(": ")[2]) == ("warn", named)
    monkeypatch.setenv("FORECACHE_MLFLOW_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("FORECACHE_DAGSTER_URI", f"postgresql://shop:secret-word@127.0.0.1:{port}/dagster")
    assert shared_services.check_machines(load_settings()).state == "ok"
    named_by = {
        checks.check_mlflow: f"The MLflow server 127.0.0.1:{port} cannot be reached: ",
        shared_services.check_dagster: f"The database 127.0.0.1:{port}/dagster of FORECACHE_DAGSTER_URI",
    }
    for check, named in named_by.items():
        with pytest.raises(UnavailableError) as caught:
            check(load_settings())
        assert str(caught.value).startswith(named)
        assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:secret-word@127.0.0.1:{port}",
        "http://user:secret-word@127.0.0.1:no-port",
        "http://user:secret-word/of-ours@127.0.0.1:{port}",
        "postgresql://127.0.0.1:{port}/shop?user=me&password=secret-word",
        "postgresql://user:secret-word/of-ours@127.0.0.1:{port}/shop",
    ],
)
def test_a_password_in_the_url_of_mlflow_is_not_shown(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_MLFLOW_URI", uri.format(port=free_port()))
    with pytest.raises(UnavailableError) as caught:
        checks.check_mlflow(load_settings())
    assert "secret-word" not in str(caught.value)
    assert "of-ours" not in str(caught.value)


@pytest.mark.parametrize("uri", ["databricks://mine", "file:///runs", "/runs"])
def test_a_place_of_mlflow_that_is_neither_server_nor_database_is_not_asked(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_MLFLOW_URI", uri)
    found = checks.check_mlflow(load_settings())
    assert (found.state, found.found.rpartition(", ")[2]) == ("ok", "which is not asked here")


def test_what_the_remote_serves_is_said_on_a_machine_that_has_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", str(tmp_path / "remote"))
    assert checks.check_stores(load_settings()).found.endswith("yet; the remote serves nothing yet")
    write_version(tmp_path / "first", "churn", churn_rows(3))
    push(Store(tmp_path / "first" / "churn"), LocalFolder(tmp_path / "remote"))
    found = checks.check_stores(load_settings())
    assert (found.state, found.found.partition("; ")[2]) == ("ok", "the remote serves churn 1")


def test_who_holds_what_is_listed_and_what_a_killed_process_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leases() -> tuple[str, str]:
        main(["doctor", "--json"])
        found = findings(capsys)["leases"]
        return found["state"], found["found"]

    assert leases() == ("ok", "none is held")
    for module in (lease, wakes):
        monkeypatch.setattr(module, "LEASE", replace(wakes.LEASE, every_s=0.1))
    settings = load_settings()
    with hold_exclusively(settings, "tables/raw_orders", action="writes raw_orders"):
        assert leases() == ("ok", f"tables/raw_orders by process {os.getpid()} (writes raw_orders)")
    found = lease.this_process
    monkeypatch.setattr(lease, "this_process", lambda *of: replace(found(*of), host="gpu-7", machine="its boot"))
    with hold_lease(open_lake(settings), "mail/letters", action="sends messages"):
        state, said = leases()
        assert state == "ok"
        assert said.startswith(f"mail/letters by process {os.getpid()} on gpu-7 (sends messages, since ")
    place = LocalFolder(settings.home_path.with_name("trainings"))
    monkeypatch.setenv("FORECACHE_TRAINING_CHECKPOINTS", str(place))
    with hold_lease(LocalFolder(place.root / "returns" / "1a"), "training", action="training returns"):
        state, said = leases()
        assert state == "ok"
        assert said.startswith(f"returns/1a/training by process {os.getpid()} on gpu-7 (training returns, since ")
    left = replace(found("mail/offers", "sends messages", ""), pid=2**22, mark="left")
    open_lake(settings).write(".leases/mail/offers.json", json.dumps(asdict(left)).encode())
    state, said = leases()
    assert state == "warn"
    assert said.endswith(". Not renewed: mail/offers")
