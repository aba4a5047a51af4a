"""Two states of the code have two versions, and no state of git stops a run."""

import subprocess
from pathlib import Path

import pytest

from forecache.base import code_version as code
from forecache.base.settings import load_settings


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(code, "PROJECT_ROOT", tmp_path)
    (tmp_path / "a.py").write_text("A = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for arguments in (["init", "-q"], ["add", "a.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    return tmp_path


def version() -> str:
    code._installed_code_version.cache_clear()
    return code.code_version(load_settings(code_version=""))


def test_every_state_of_the_source_has_its_own_version(checkout: Path) -> None:
    seen = [version()]
    assert "+" not in seen[0]
    (checkout / "notes.txt").write_text("no source")
    assert version() == seen[0]
    for name, text in (("a.py", "A = 2\n"), ("a.py", "A = 3\n"), ("b.py", "B = 1\n"), ("b.py", "B = 2\n")):
        (checkout / name).write_text(text)
        seen.append(version())
    assert len(set(seen)) == 5
    assert all(v.startswith(f"{seen[0]}+dirty.") for v in seen[1:])
    (checkout / "a.py").write_text("A = 1\n")
    (checkout / "b.py").unlink()
    assert version() == seen[0]


def test_without_git_the_version_has_a_hash_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "PROJECT_ROOT", tmp_path)
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(code, "find_spec", lambda name: type("Spec", (), {"submodule_search_locations": [package]}))
    (package / "a.py").write_text("A = 1\n")
    first = version()
    (package / "a.py").write_text("A = 2\n")
    assert "+source." in first
    assert version() != first


def test_git_that_does_not_answer_is_no_error(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = version()
    run = subprocess.run

    def hangs(command: list[str], **options: object) -> object:
        if "diff" in command:
            raise subprocess.TimeoutExpired(command, 10)
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(code.subprocess, "run", hangs)
    assert version() == f"{commit}+unknown"


def test_setting_wins(checkout: Path) -> None:
    assert code.code_version(load_settings(code_version="v7")) == "v7"
