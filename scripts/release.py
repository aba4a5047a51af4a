"""Build the files of a release into dist/: wheel, sdist, SBOM and their checksums. `make release` calls it.

The version is that of pyproject.toml; CHANGELOG.md has to have its section. The wheel is built from the sdist, so that
both have the same files, and has to have every file of the packages that git knows. Nothing is uploaded.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = str(ROOT / ".tools" / "uv" / "bin" / "uv")
PACKAGES = ("forecache", "dagster_project", "assets", "jobs", "resources")
TWINE = "twine>=7,<8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "dist", help="Folder of the files; default: dist.")
    arguments = parser.parse_args()
    version = run(UV, "version", "--short").strip()
    require_section((ROOT / "CHANGELOG.md").read_text(), version)
    if changed := run("git", "status", "--porcelain").strip():
        fail(f"The checkout differs from its commit: {changed.splitlines()[0].strip()}. Commit it, or stash it.")
    made = build(arguments.to, version)
    run(UV, "tool", "run", "--from", TWINE, "twine", "check", "--strict", *map(str, made))
    made.append(write_sbom(arguments.to, version))
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made)
    (arguments.to / "SHA256SUMS").write_text(sums)
    print(sums, end="")


def require_section(changelog: str, version: str) -> None:
    """Refuse a version that CHANGELOG.md has no section of."""
    if not re.search(rf"^## \[?{re.escape(version)}\]?(\s|$)", changelog, re.MULTILINE):
        fail(f"CHANGELOG.md has no section '## {version}'. Rename 'Unreleased' to it, and begin a new one.")


def build(folder: Path, version: str) -> list[Path]:
    """Build the wheel from the sdist into a folder; returns both paths."""
    run(UV, "build", "--quiet", "--no-create-gitignore", "--out-dir", str(folder))
    wheel, sdist = folder / f"forecache-{version}-py3-none-any.whl", folder / f"forecache-{version}.tar.gz"
    if missing := missing_files(wheel):
        fail(f"The wheel lacks {len(missing)} files of the packages, such as {missing[0]}. See [tool.hatch.build].")
    return [wheel, sdist]


def missing_files(wheel: Path) -> list[str]:
    """The files of the packages in git that a wheel does not have."""
    known = run("git", "ls-files", "-z", *PACKAGES).split("\0")
    with zipfile.ZipFile(wheel) as archive:
        return sorted({*filter(None, known)} - {*archive.namelist()})


def write_sbom(folder: Path, version: str) -> Path:
    """Write what the extras install by the lock, in CycloneDX's JSON, with licences left out as the lock has none."""
    path = folder / f"forecache-{version}.cdx.json"
    wanted = ("--frozen", "--all-extras", "--no-dev", "--format", "cyclonedx1.5")
    sbom = json.loads(run(UV, "export", "--quiet", "--preview-features", "sbom-export", *wanted))
    path.write_text(json.dumps(sbom, indent=1) + "\n")
    return path


def run(*command: str) -> str:
    """The output of a command in the checkout; if it fails, ends with what it said."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        fail(f"{Path(command[0]).name} {command[1]} failed:\n{(done.stdout + done.stderr).strip()}")
    return done.stdout


def fail(reason: str) -> None:
    sys.exit(f"[release] {reason}")


if __name__ == "__main__":
    main()
