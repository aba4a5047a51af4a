"""The version of the code that wrote a row: the setting, the git commit, or a hash of the installed source."""

import hashlib
import os
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from forecache.base.settings import PROJECT_ROOT, Settings

_GIT_TIMEOUT_S = 10
_SOURCE = (".py", ".sql", ".toml", ".yaml", ".json", ".lock")


def code_version(settings: Settings) -> str:
    """FORECACHE_CODE_VERSION, else the git commit, else the package's version with a hash of its source.

    If files differ from the commit, `+dirty.` and a hash of all the differences follow, untracked source files
    included, so that two states of the code have two versions.
    """
    return settings.code_version or _installed_code_version(PROJECT_ROOT, settings.project)


@lru_cache(maxsize=8)
def _installed_code_version(root: Path, project: str) -> str:
    commit = _run_git(root, "rev-parse", "--short=12", "HEAD")
    if not commit:
        from importlib.metadata import version

        return f"{version('forecache')}+source.{_hash_of_packages(['forecache', project])}"
    changes = _run_git(root, "diff", "HEAD", "--binary")
    untracked = _run_git(root, "ls-files", "--others", "--exclude-standard", "-z")
    if changes is None or untracked is None:
        return f"{commit.decode().strip()}+unknown"
    new = [Path(os.fsdecode(name)) for name in untracked.split(b"\0") if name]
    digest = _hash_of_files(root, (path for path in new if path.suffix in _SOURCE), changes)
    return commit.decode().strip() + (f"+dirty.{digest}" if digest else "")


def _hash_of_packages(packages: Iterable[str]) -> str:
    specs = filter(None, map(find_spec, packages))
    folders = [Path(folder) for spec in specs for folder in spec.submodule_search_locations or ()]
    return "".join(
        _hash_of_files(folder, (p.relative_to(folder) for p in folder.rglob("*.py")), b"") for folder in folders
    )


def _hash_of_files(root: Path, paths: Iterable[Path], beside: bytes) -> str:
    """Eight hex digits of the hash of the files' names and contents and of `beside`; "" if there is nothing to hash."""
    paths = sorted(paths)
    if not paths and not beside:
        return ""
    digest = hashlib.sha256(beside)
    for path in paths:
        digest.update(f"\0{path}\0".encode(errors="surrogateescape"))
        digest.update((root / path).read_bytes() if (root / path).is_file() else b"")
    return digest.hexdigest()[:8]


def _run_git(root: Path, *arguments: str) -> bytes | None:
    """Standard output of a git command; None if git is not installed, fails, or takes too long."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=False, timeout=_GIT_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
