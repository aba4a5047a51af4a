"""Named environments: what the file may say, how one is chosen, and that nobody means prod by accident."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forecache.base.errors import ForecacheError, NotFoundError, SettingsError
from forecache.base.settings import Settings, load_settings, trial_settings
from forecache.cli.main import main

FILE = """
[dev]
home = "dev-home"

[staging]
home = "/srv/staging"
lake = "s3://staging/lake"
store_remote = "s3://staging/store"
reader_port = 9001
smtp_password = "file:secrets/smtp"

[staging.databases]
shop = "postgresql://shop:${SHOP_PASSWORD}@db/shop"

[prod]
home = "prod-home"
protected = true
"""


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FORECACHE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "environments.toml").write_text(FILE)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "smtp").write_text("hush\n")
    (tmp_path / "pipelines").mkdir()
    monkeypatch.chdir(tmp_path / "pipelines")  # the file is found from the folder up
    monkeypatch.setenv("SHOP_PASSWORD", "hush-hush")


def make_trial(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "trial.json").write_text("{}")


def refusal(environment: str | None = None, **overrides: object) -> str:
    with pytest.raises(ForecacheError) as error:
        load_settings(environment, **overrides)
    return str(error.value)


def test_without_a_choice_the_variables_alone_say_what_is_meant(tmp_path: Path) -> None:
    assert load_settings() == Settings()
    assert (load_settings().environment, load_settings().home_path) == ("", tmp_path / "pipelines" / ".forecache")


def test_settings_of_an_environment_are_those_of_its_table(tmp_path: Path) -> None:
    staging = load_settings("staging")
    assert staging.environment == "staging"
    assert (staging.home_path, staging.lake_uri) == (Path("/srv/staging"), "s3://staging/lake")
    assert (staging.store_remote, staging.reader_port) == ("s3://staging/store", 9001)
    assert staging.smtp_password == "hush"
    assert staging.databases == {"shop": "postgresql://shop:hush-hush@db/shop"}
    assert load_settings("dev").home_path == tmp_path / "dev-home"  # relative to the file, not to this folder


def test_a_variable_chooses_and_an_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_ENV", "dev")
    assert load_settings().environment == "dev"
    assert load_settings("staging").environment == "staging"
    assert load_settings("").environment == ""
    assert load_settings("", home="/srv/other").home_path == Path("/srv/other")


def test_a_named_file_replaces_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.toml").write_text('[only]\nhome = "here"\n')
    monkeypatch.setenv("FORECACHE_ENVIRONMENTS", str(tmp_path / "other.toml"))
    assert load_settings("only").home_path == tmp_path / "here"
    assert "It has: only" in refusal("staging")
    monkeypatch.setenv("FORECACHE_ENVIRONMENTS", str(tmp_path / "none.toml"))
    assert "no such file" in refusal("only")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('hom = "x"', "has a setting 'hom', which there is not. Did you mean 'home'?"),
        ('env = "prod"', "has a setting 'env', which there is not"),
        ('home = "${NOT_SET}"', "names the variable NOT_SET, which is not set"),
        ('smtp_password = "file:nowhere"', "cannot be read: No such file or directory"),
        ("reader_port = 0", "Setting 'reader_port' of the environment 'x' has the value 0"),
        ("protected = 1", "is neither true nor false"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_sentence(tmp_path: Path, table: str, told: str) -> None:
    (tmp_path / "environments.toml").write_text(f"[x]\n{table}\n")
    assert told in refusal("x")


def test_a_file_that_is_no_file_of_environments_is_refused(tmp_path: Path) -> None:
    (tmp_path / "environments.toml").write_text("[x\n")
    assert "cannot be read" in refusal("x")
    (tmp_path / "environments.toml").write_text('home = "x"\n')
    assert "outside a table" in refusal("x")
    (tmp_path / "environments.toml").unlink()
    with pytest.raises(NotFoundError, match="no environments.toml"):
        load_settings("x")


def test_a_variable_that_contradicts_the_file_is_an_error_that_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_HOME", "/srv/mine")
    told = refusal("staging")
    assert "FORECACHE_HOME is '/srv/mine'" in told.replace("PosixPath(", "")
    assert "/srv/staging" in told
    monkeypatch.setenv("FORECACHE_HOME", "/srv/../srv/staging")  # the same folder
    assert load_settings("staging").home_path == Path("/srv/staging")
    monkeypatch.setenv("FORECACHE_SMTP_PASSWORD", "other")
    told = refusal("staging")
    assert "FORECACHE_SMTP_PASSWORD" in told
    assert "hush" not in told
    assert "other" not in told.replace("another", "")


def test_no_error_shows_a_secret_that_the_file_refers_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = 'mlflow_uri = "postgresql://u:${SECRET}@db/mlflow"\nsmtp_port = "${SECRET}"\n'
    (tmp_path / "environments.toml").write_text(f"[x]\n{table}[y]\nsmtp_password = 'file:key'\n")
    monkeypatch.setenv("SECRET", "hush")
    assert "'smtp_port' of the environment 'x' has a value that is not shown" in refusal("x")
    monkeypatch.setenv("SECRET", "25")
    monkeypatch.setenv("FORECACHE_MLFLOW_URI", "postgresql://u:hush@db/mlflow")
    told = refusal("x")
    assert "FORECACHE_MLFLOW_URI is set, and the environment 'x'" in told
    assert "hush" not in told
    assert ":25@" not in told
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    assert "which is no text in UTF-8" in refusal("y")


def test_a_protected_environment_is_chosen_only_by_who_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_ENV", "prod")  # left over in a shell
    assert "is protected, and FORECACHE_ENV alone does not choose it. Give --env prod" in refusal()
    monkeypatch.setenv("FORECACHE_SERVICE", "staging")
    assert "is protected" in refusal()
    monkeypatch.setenv("FORECACHE_SERVICE", "prod")
    assert load_settings().environment == "prod"


@pytest.mark.parametrize("arguments", [["--env", "prod", "settings"], ["settings", "--env", "prod"]])
def test_the_command_line_names_it_and_says_so(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_ENV", "prod")
    assert main(["settings"]) == 2
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    rows = {row["variable"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["FORECACHE_HOME"]["value"] == str(tmp_path / "prod-home")
    assert rows["FORECACHE_HOME"]["source"] == "environments.toml [prod]"
    assert main(arguments) == 0
    assert capsys.readouterr().err == "Environment: prod\n"
    assert (os.environ["FORECACHE_ENV"], "FORECACHE_SERVICE" in os.environ) == ("prod", False)  # for that command only


def test_a_process_that_is_started_loads_the_same_settings(tmp_path: Path) -> None:
    make_trial(tmp_path / "prod-home-trials" / "x")
    for settings in (load_settings("staging"), load_settings("prod"), load_settings("prod/x"), load_settings("")):
        program = "from forecache.base.settings import load_settings; print(load_settings().model_dump_json())"
        environment = {**os.environ, "FORECACHE_ENV": "dev", **settings.process_variables()}
        found = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout
        loaded = {**json.loads(found), "service": ""}
        assert loaded.pop("lake") in (settings.lake, settings.lake_uri)
        assert Path(loaded.pop("home")).resolve() == settings.home_path
        assert loaded == {key: value for key, value in json.loads(settings.model_dump_json()).items() if key in loaded}


def test_a_trial_has_a_home_of_its_own_and_no_way_out(tmp_path: Path) -> None:
    base = load_settings("staging")
    trial = trial_settings(base, "bound")
    assert trial.base == base
    assert (trial.environment, trial.home_path) == ("staging/bound", Path("/srv/staging-trials/bound"))
    assert trial.lake_uri == "/srv/staging-trials/bound/lake"
    assert trial.landing_uri == "/srv/staging/landing"
    assert trial.mlflow_tracking_uri == "sqlite:////srv/staging-trials/bound/mlflow/mlflow.db"
    assert (trial.store_remote, trial.smtp_password, trial.kafka_brokers) == ("", "", "")
    with pytest.raises(SettingsError, match="The trial 'staging/bound' does not send mail"):
        trial.refuse_in_trial("send mail")
    base.refuse_in_trial("send mail")
    assert "There is no trial 'bound' of the environment 'local'" in refusal("local/bound")
    make_trial(tmp_path / "pipelines" / ".forecache-trials" / "bound")
    local = load_settings("local/bound")
    assert local.home_path == tmp_path / "pipelines" / ".forecache-trials" / "bound"
    assert "cannot be the name of a trial" in refusal("staging/../x")
