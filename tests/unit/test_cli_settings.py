"""`forecache settings`: every setting, where its value comes from, and nothing secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from forecache.base.settings import Settings, load_settings
from forecache.cli import base
from forecache.cli.main import main
from forecache.plugins.doctor.checks import check_variables
from forecache.plugins.doctor.command import run_checks


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {row["variable"]: row for row in json.loads(capsys.readouterr().out)}


def test_json_lists_every_setting_with_a_description(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--json"]) == 0
    found = rows(capsys)
    assert set(found) == {f"FORECACHE_{name.upper()}" for name in Settings.model_fields}
    assert all(row["description"] for row in found.values())


def test_source_is_environment_file_or_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("FORECACHE_READER_PORT=9001\nFORECACHE_SPARK_MASTER=local[1]\n")
    monkeypatch.setenv("FORECACHE_SPARK_MASTER", "local[3]")
    assert main(["settings", "--json"]) == 0
    found = rows(capsys)
    assert (found["FORECACHE_READER_PORT"]["source"], found["FORECACHE_READER_PORT"]["value"]) == (".env", 9001)
    assert found["FORECACHE_SPARK_MASTER"]["source"] == "environment"
    assert found["FORECACHE_SPARK_MASTER"]["value"] == "local[3]"
    assert found["FORECACHE_DEVICE"]["source"] == "default"


def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORECACHE_STORAGE_OPTIONS", '{"aws_secret_access_key": "hush"}')
    monkeypatch.setenv("FORECACHE_REDIS_URL", "redis://user:hush@example:6379/0")
    assert main(["settings", "--json"]) == 0
    text = capsys.readouterr().out
    assert "hush" not in text
    assert "redis://***@example:6379/0" in text


@pytest.mark.parametrize("name", ["FORECACHE_STORAGE_OPTIONS", "FORECACHE_SPARK_CONF"])
@pytest.mark.parametrize("value", ['["hush"]', '{"aws_secret_access_key": ["hush"]}'])
def test_wrong_value_of_a_setting_with_secrets_is_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["settings"]) == 2
    captured = capsys.readouterr()
    assert name in captured.err
    assert "hush" not in captured.out + captured.err


def test_settings_hide_their_secrets_where_they_are_printed(tmp_path: Path) -> None:
    settings = load_settings(
        storage_options={"aws_secret_access_key": "hush"}, spark_conf={"spark.ssl.password": "hush"}
    )
    assert "hush" not in f"{settings} {settings!r}"


def test_wrong_value_is_shown_and_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_READER_PORT", "eighty")
    assert main(["settings"]) == 2
    captured = capsys.readouterr()
    assert "eighty" in captured.out
    assert "FORECACHE_READER_PORT" in captured.err


def test_wrong_value_stops_other_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORECACHE_DEVICE", "abacus")
    assert main(["tables"]) == 2
    assert "FORECACHE_DEVICE has the value 'abacus'" in capsys.readouterr().err


def test_markdown_is_a_table_without_this_machine_s_folders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(Settings.model_fields)
    assert all(line.count("|") == 5 for line in lines)
    assert "`.tools/jars`" in "\n".join(lines)


@pytest.mark.parametrize("variable", ["FORECACHE_SPARK_CONF", "FORECACHE_STORAGE_OPTIONS", "FORECACHE_PRICES"])
def test_a_setting_that_is_no_json_is_named_and_exits_with_2(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "{a")
    for command in (["settings"], ["store", "versions", "churn"]):
        assert main(command) == 2
        assert f"{variable} is no JSON: " in capsys.readouterr().err
    assert f"{variable} is no JSON: " in run_checks()[0].found


def test_unknown_variables_are_told_with_the_setting_that_may_be_meant(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FORECACHE_HOEM", str(tmp_path))
    monkeypatch.setenv("FORECACHE_XYZZY", "1")
    monkeypatch.setenv("FORECACHE_READER_SERVICE_HOST", "10.0.0.1")  # set by Kubernetes
    base._WARNED.clear()
    assert main(["settings"]) == 0
    told = capsys.readouterr().err
    assert "there is no setting FORECACHE_HOEM. Did you mean FORECACHE_HOME?" in told
    assert "there is no setting FORECACHE_XYZZY. `forecache settings` lists all settings." in told
    assert "SERVICE_HOST" not in told
    finding = check_variables(load_settings())
    assert finding.state == "warn"
    assert "FORECACHE_HOEM (did you mean FORECACHE_HOME?), FORECACHE_XYZZY" in finding.found
