"""`forecache init`: what it writes, and what it refuses."""

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import click
import pytest
import tomllib
from packaging.requirements import Requirement

from forecache.base.settings import PROJECT_ROOT, load_settings
from forecache.cli.main import main
from forecache.declare.loading import read_project
from forecache.plugins.new_project.init_command import TEMPLATES, make_project

DECLARED = {
    "batch": ["returns"],
    "sql": ["returns"],
    "realtime": ["loyalty", "offer"],
    "recommend": ["recommended"],
    "stream": ["activity"],
    "registered": ["returns"],
}
"""The declarations of each template with a nightly run."""


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_project_of_each_template_loads_under_its_name(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = f"init_shop_{template}"
    folder = tmp_path / package.replace("_", "-")
    assert main(["init", str(folder), "--template", template, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["package"], made["template"]) == (package, template)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == set(made["files"])
    declares = f"{package}/pipelines/{TEMPLATES[template].declares}.py"
    assert {".env", "Makefile", "pyproject.toml", ".github/workflows/ci.yml", declares} <= files
    for name in files:
        text = (folder / name).read_text()
        assert "new_project" not in text
        assert "new-project" not in text
        assert "@VERSION@" not in text
        assert sys.prefix not in text  # a colleague's environment lies elsewhere
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    project = read_project(load_settings(home=tmp_path / "home", project=package))
    assert not project.broken
    assert sorted(project.nightly) == DECLARED[template]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_project_names_the_version_and_the_extras_that_it_needs(template: str, tmp_path: Path) -> None:
    make_project(tmp_path / "shop-c", "shop_c", template)
    project = tomllib.loads((tmp_path / "shop-c" / "pyproject.toml").read_text())["project"]
    (required,) = project["dependencies"]
    own, forecache = Requirement(required), tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    assert (project["name"], own.name) == ("shop-c", "forecache")
    assert own.specifier.contains(forecache["version"])
    assert own.extras <= {*forecache["optional-dependencies"]}
    assert "local" in own.extras


def test_the_made_up_data_begin_sixty_days_ago(tmp_path: Path) -> None:
    make_project(tmp_path / "shop-d", "shop_d")
    first = datetime.now(timezone.utc).date() - timedelta(days=60)
    source = (tmp_path / "shop-d" / "shop_d" / "orders.py").read_text()
    assert f"start=date({first.year}, {first.month}, {first.day})," in source


def test_a_terminal_is_asked_for_the_kind_of_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked: list[str] = []
    monkeypatch.setattr(click, "prompt", lambda text, **options: asked.append(options["default"]) or "recommend")
    assert main(["init", str(tmp_path / "shop-e")]) == 0
    assert asked == ["batch"]
    shown = capsys.readouterr().err
    assert [name for name in TEMPLATES if f"  {name} " not in shown] == []
    assert (tmp_path / "shop-e" / "shop_e" / "pipelines" / "recommended.py").is_file()
    assert main(["init", str(tmp_path / "shop-f"), "--template", "sql"]) == 0
    assert asked == ["batch"]


def test_a_project_finds_forecache_in_its_folder_the_environment_or_path_and_says_so_if_there_is_none(
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

    assert demo(VIRTUAL_ENV=str(other.parent)) == f"{other}/forecache demo"
    assert demo(PATH=f"{other}:/usr/bin:/bin") == f"{other}/forecache demo"
    assert "forecache is not on PATH: run `make setup`, activate its environment, or run `make BIN=" in demo()
    (project / ".venv" / "bin").mkdir(parents=True)
    assert demo(VIRTUAL_ENV=str(other.parent)) == ".venv/bin/forecache demo"


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
