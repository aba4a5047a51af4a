"""How the command line treats its arguments and its errors."""

import errno
import os
import pickle
import re
import sqlite3
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pytest

from forecache.base import errors
from forecache.base.settings import load_settings
from forecache.cli import groups
from forecache.cli import main as cli
from forecache.cli.base import DateParam
from forecache.cli.commands import run as run_commands
from forecache.kit.delta import writers
from forecache.kit.delta.tables import append_rows
from forecache.kit.explain_errors import explain_error


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))


def raise_in_run(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(run_commands, "run_job", fail)


GROUPS = {
    "dagster": ("webserver", "daemon", "code"),
    "log": ("show", "spool", "commit"),
    "stream": ("run", "tail"),
    "tokens": ("create", "list", "revoke"),
    "models": ("list", "diff", "evaluate", "reject", "rollback"),
    "trials": ("list", "remove"),
    **groups.GROUPS,
}
NAMES = sorted({*cli.COMMANDS, *(f"{group} {name}" for group, names in GROUPS.items() for name in names)} - {*GROUPS})


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_examples_and_shared_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert "--debug" in text
    assert f"forecache {name}" in text.partition("Examples:")[2]


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert "Nightly runs:" in text
    assert "More:" not in text, "each command is in a section"
    assert all(f"\n  {name} " in text for name in cli.COMMANDS)


def test_misspelt_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quer"]) == 2
    assert "There is no command 'quer'. Did you mean 'query'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ForecacheError("It broke."), 1),
        (errors.SettingsError("It broke."), 2),
        (errors.NotFoundError("It broke."), 3),
        (errors.InputError("It broke."), 4),
        (errors.ConflictError("It broke."), 5),
        (errors.CheckError("It broke."), 6),
        (errors.UnavailableError("It broke."), 7),
    ],
)
def test_forecache_errors_are_one_line_and_an_exit_code(
    error: errors.ForecacheError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_in_run(monkeypatch, error)
    assert cli.main(["run", "churn"]) == code
    assert capsys.readouterr().err == f"{error.title}: It broke.\n"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raise_in_run(monkeypatch, errors.InputError("It broke."))
    assert cli.main(["run", "churn", "--debug"]) == 4
    assert "Traceback" in capsys.readouterr().err


def test_unforeseen_error_is_one_line_that_says_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raise_in_run(monkeypatch, KeyError("column\nsecond line"))
    assert cli.main(["run", "churn"]) == 1
    said = capsys.readouterr().err
    assert "KeyError" in said
    assert "--debug" in said
    assert said.count("\n") == 1


def test_forecache_error_inside_a_wrapper_keeps_its_sentence_and_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapper = RuntimeError("step failed")
    wrapper.__cause__ = errors.CheckError("The gate said no.")
    raise_in_run(monkeypatch, wrapper)
    assert cli.main(["run", "churn"]) == 6
    assert capsys.readouterr().err == "Check failed: The gate said no.\n"


def test_full_disk_anywhere_in_the_chain_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapper = RuntimeError("job aborted")
    wrapper.__cause__ = OSError(28, "No space left on device")
    raise_in_run(monkeypatch, wrapper)
    assert cli.main(["run", "churn"]) == 7
    assert "The disk is full." in capsys.readouterr().err


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raise_in_run(monkeypatch, KeyboardInterrupt())
    assert cli.main(["run", "churn"]) == 130
    assert "run again to continue" in capsys.readouterr().err


def test_unknown_pipeline_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "nope"]) == 3
    assert re.search(r"feature view or real-time model 'nope'.*churn, spend", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--date", "1998-02-30"], "'1998-02-30' is not a date. Write it like 1998-06-30, today or yesterday."),
        (["--dates", "1998-06-01,x"], "'x' is not a date. Write it like 1998-06-30, today or yesterday."),
        (["--job", "training", "--failed"], "choose as-of dates, not those of --job training"),
        (["--dates", "1998-06-30..1998-06-01"], "ends before it starts"),
        (["--date", "1998-06-30", "--dates", "1998-06-01..1998-06-30"], "not both"),
    ],
)
def test_wrong_nights_are_usage_errors(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "churn", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_project_that_does_not_exist_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_PROJECT", "no_such_project")
    assert cli.main(["run", "churn"]) == 2
    assert "no_such_project.pipelines" in capsys.readouterr().err


def test_run_goes_on_without_a_broken_module_and_ends_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "half_project" / "pipelines"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "bad.py").write_text("import no_such_module\n")
    (folder / "good.py").write_text("from dagster_project.pipelines.churn import churn\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "half_project")
    asked: list[list[str]] = []
    monkeypatch.setattr(run_commands, "run_job", lambda settings, *, pipelines, **_: asked.append(pipelines))
    assert cli.main(["run"]) == 2
    assert asked == [["churn"]]
    told = capsys.readouterr().err
    assert "1 of 2 failed. half_project.pipelines.bad: The pipeline module half_project.pipelines.bad" in told
    assert "No module named 'no_such_module'" in told
    assert cli.main(["run", "churn"]) == 0


def test_several_failures_are_all_told_and_give_their_common_exit_code() -> None:
    alike = errors.PipelinesFailedError({"a": errors.NotFoundError("No a."), "b": errors.NotFoundError("No b.")}, of=3)
    assert (str(alike), alike.exit_code) == ("2 of 3 failed. a: No a.; b: No b.", 3)
    mixed = errors.PipelinesFailedError({"a": errors.NotFoundError("No a."), "b": ValueError("wrong\nlong")}, of=2)
    assert (str(mixed), mixed.exit_code) == ("2 of 2 failed. a: No a.; b: ValueError: wrong", 1)


def test_an_error_of_another_process_says_what_it_said_there() -> None:
    for error in (
        errors.DamagedError("A file is bad."),
        errors.InputError("A row is bad.", remedy="Mend it."),
        errors.PipelinesFailedError({"a": errors.NotFoundError("No a.")}, of=2),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.exit_code) == (type(error), str(error), error.exit_code)
        assert (again.message, again.remedy) == (error.message, error.remedy)


@pytest.mark.parametrize(("word", "days"), [("today", 0), ("yesterday", 1), ("1998-06-30", None)])
def test_a_night_may_be_named_by_the_day(word: str, days: int | None) -> None:
    before = datetime.now(timezone.utc).date()
    night = DateParam().convert(word, None, None)
    after = datetime.now(timezone.utc).date()
    if days is None:
        assert night == date(1998, 6, 30)
    else:
        assert before - timedelta(days=days) <= night <= after - timedelta(days=days)


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (OSError(errno.EROFS, "Read-only file system", "/srv/home/registry.lock"), "/srv/home/registry.lock"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "FORECACHE_HOME"),
    ],
)
def test_a_home_that_cannot_be_written_is_said_in_a_sentence(error: Exception, place: str) -> None:
    said = explain_error(error)
    assert said.message.startswith(f"{place} cannot be written")
    assert "Errno" not in str(said)
    assert said.exit_code == 7


def test_a_file_that_may_not_be_read_is_named_and_nothing_is_said_about_writing() -> None:
    said = explain_error(PermissionError(errno.EACCES, "Permission denied", "/srv/landing/orders.csv"))
    assert said.message == "/srv/landing/orders.csv: permission denied."
    assert "written" not in str(said)
    assert "changed" not in str(said)
    assert said.exit_code == 7


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, 1), (errno.ENOSPC, 7)])
def test_an_error_of_the_disk_during_a_write_is_told_once_and_ends_the_command(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writers, "write_file", fail)
    rows = pa.table({"x": [1]})
    monkeypatch.setattr(run_commands, "run_job", lambda *_, **__: append_rows(load_settings(home=tmp_path), "t", rows))
    assert cli.main(["run", "churn"]) == code
    assert ("Input/output error" if code == 1 else "The disk is full") in capsys.readouterr().err
    with pytest.raises(Exception) as caught:
        append_rows(load_settings(home=tmp_path), "t", rows)
    assert caught.value.__cause__ is not caught.value


def test_errors_that_are_each_other_s_cause_are_walked_once() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert list(errors.chain_of(one)) == [one, two]
    assert explain_error(one).message == "ValueError: one."


def test_an_unforeseen_error_is_a_sentence_where_only_the_reader_is_installed() -> None:
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'numpy', 'pyspark'): sys.modules[name] = None\n"
        "from forecache.cli import main as cli\n"
        "def fail(*_, **__): raise ValueError('odd')\n"
        "cli.cli.main = fail\n"
        "sys.exit(cli.main(['serve']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1, "Forecache failed: ValueError: odd. Run again with --debug to see where.\n"
    )  # fmt: skip


def test_a_project_without_a_usable_pipeline_fails_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "all_broken" / "pipelines"
    folder.mkdir(parents=True)
    (folder / "bad.py").write_text("raise ValueError('no')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FORECACHE_PROJECT", "all_broken")
    raise_in_run(monkeypatch, AssertionError("started"))
    assert cli.main(["run"]) == errors.SettingsError.exit_code
    assert "all_broken.pipelines.bad cannot be used: ValueError: no" in capsys.readouterr().err


def test_a_night_that_has_not_ended_is_an_error_without_an_empty_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path))
    assert cli.main(["run", "churn", "--date", "2099-01-01"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "The date 2099-01-01 lies outside 'churn'." in err


def test_a_rebuild_of_an_ingestion_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--job", "ingest", "--rebuild"]) == 2
    assert "a landing file is read once" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_completes_commands_and_declared_names(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_FORECACHE_COMPLETE={shell}_complete" in script
    program = Path(sys.executable).with_name("forecache")
    asked = {"_FORECACHE_COMPLETE": "bash_complete", "COMP_WORDS": "forecache store versions ch", "COMP_CWORD": "3"}
    done = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True, check=False)
    assert done.stdout.split(",")[-1].strip() == "churn", done.stderr
