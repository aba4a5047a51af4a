"""`forecache init`: what it writes, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from forecache.base.settings import load_settings
from forecache.cli.main import main
from forecache.declare.loading import read_project


def test_a_project_has_a_pipeline_that_loads_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "init-shop"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["package"] == "init_shop"
    files = {
        str(path.relative_to(tmp_path / "init-shop")) for path in (tmp_path / "init-shop").rglob("*") if path.is_file()
    }
    assert files == set(made["files"])
    assert {".env", "Makefile", ".github/workflows/ci.yml", "init_shop/pipelines/returns.py"} <= files
    for name in files:
        text = (tmp_path / "init-shop" / name).read_text()
        assert "new_project" not in text
        assert "@BIN@" not in text
        assert name == "local.mk" or sys.prefix not in text  # a colleague's environment lies elsewhere
    monkeypatch.syspath_prepend(str(tmp_path / "init-shop"))
    project = read_project(load_settings(home=tmp_path / "home", project="init_shop"))
    assert list(project.pipelines) == ["returns"]
    assert not project.broken


def test_a_project_finds_forecache_by_local_mk_the_environment_or_path_and_says_so_if_there_is_none(
    tmp_path: Path,
) -> None:
    project, other = tmp_path / "shop-b", tmp_path / "other" / "bin"
    assert main(["init", str(project)]) == 0
    other.mkdir(parents=True)
    (other / "forecache").symlink_to(sys.executable)

    def demo(**variables: str) -> str:
        environment = {"PATH": "/usr/bin:/bin", **variables}
        command = ["make", "--dry-run", "demo"]
        ran = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        return ran.stdout.strip() or ran.stderr.strip()

    assert demo(VIRTUAL_ENV=str(other.parent)) == f"{Path(sys.executable).parent}/forecache demo"
    (project / "local.mk").unlink()
    assert demo(VIRTUAL_ENV=str(other.parent)) == f"{other}/forecache demo"
    assert demo(PATH=f"{other}:/usr/bin:/bin") == f"{other}/forecache demo"
    assert "forecache is not on PATH: activate its environment, or run `make BIN=" in demo()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("full",), "The folder {tmp}/full is not empty. Name a new or an empty folder."),
        (("9-lives",), "A project's package cannot be named '9_lives'. Give --package with lower-case letters,"),
        (("new", "--package", "class"), "A project's package cannot be named 'class'."),
        (("new", "--package", "jobs"), "There is a Python package 'jobs' already. Give another name with --package."),
    ],
)
def test_a_full_folder_and_a_name_that_cannot_be_are_refused_and_nothing_is_written(
    arguments: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(["init", str(tmp_path / arguments[0]), *arguments[1:]]) == 4
    assert told.format(tmp=tmp_path) in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_init_cut_short_writes_what_is_missing_when_it_is_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "shop-a")]) == 0
    whole = {path: path.read_bytes() for path in (tmp_path / "shop-a").rglob("*") if path.is_file()}
    for number, (path, content) in enumerate(whole.items()):
        path.unlink() if number % 3 == 0 else path.write_bytes(content[: len(content) // (number % 3)])
    assert main(["init", str(tmp_path / "shop-a")]) == 0
    assert {path: path.read_bytes() for path in (tmp_path / "shop-a").rglob("*") if path.is_file()} == whole
    (tmp_path / "shop-a" / "Makefile").write_text("mine\n")
    assert main(["init", str(tmp_path / "shop-a")]) == 4
    assert (tmp_path / "shop-a" / "Makefile").read_text() == "mine\n"
