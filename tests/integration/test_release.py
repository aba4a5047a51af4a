"""The files of a release: what the wheel and the sdist have, and that the wheel alone is enough for its commands."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from release_script import UV, build_wheel, load_release

from forecache.base.settings import PROJECT_ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("dist"))


def test_the_wheel_has_every_file_of_the_packages_and_the_sdist_has_nothing_else(wheel: Path) -> None:
    assert load_release().missing_files(wheel) == []
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        top = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 1}
    packages = {"forecache", "dagster_project", "assets", "jobs", "resources"}
    assert packages <= top
    assert top - packages <= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO", ".gitignore"}


def test_a_file_that_the_wheel_lacks_is_named(wheel: Path, tmp_path: Path) -> None:
    less = tmp_path / "less.whl"
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(less, "w") as part:
        for name in whole.namelist():
            if not name.endswith("page.css"):
                part.writestr(name, whole.read(name))
    assert load_release().missing_files(less) == ["forecache/plugins/status/page/page.css"]


def test_the_wheel_alone_makes_projects_and_says_its_version(wheel: Path, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FORECACHE_", "PYTHON"))}
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], check=True, env=kept)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, str(wheel)], check=True, env=kept)

    def forecache(*arguments: str) -> str:
        program = str(tmp_path / "venv" / "bin" / "forecache")
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, env=kept, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Create a new project" in forecache("--help")
    assert json.loads(forecache("version", "--json"))["forecache"] == wheel.name.split("-")[1]
    made = json.loads(forecache("init", "shop", "--json"))
    assert "shop/pipelines/returns.py" in made["files"]
    assert (tmp_path / "shop" / ".github" / "workflows" / "ci.yml").is_file()


def test_a_version_without_a_section_of_the_changelog_is_refused() -> None:
    release = load_release()
    release.require_section("# Changelog\n\n## Unreleased\n\n## 0.2.0 (2026-12-01)\n", "0.2.0")
    with pytest.raises(SystemExit, match=r"CHANGELOG.md has no section '## 0\.2\.0'"):
        release.require_section("# Changelog\n\n## Unreleased\n\n## 0.2.0rc1\n\n0.2.0\n", "0.2.0")


def test_the_sbom_lists_the_locked_versions_of_what_the_extras_install(tmp_path: Path) -> None:
    sbom = json.loads(load_release().write_sbom(tmp_path, "1.0").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    listed = {(each["name"], each["version"]) for each in sbom["components"] if "version" in each}
    lock = (PROJECT_ROOT / "uv.lock").read_text()
    assert {"deltalake", "mlflow", "pyarrow", "torch"} <= {name for name, _ in listed}
    assert all(f'name = "{name}"\nversion = "{version}"' in lock for name, version in listed)
    assert "pytest" not in {name for name, _ in listed}
