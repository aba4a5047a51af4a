"""The script of a release, and the wheel that it builds, for tests that install it."""

import importlib.util
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from forecache.base.settings import PROJECT_ROOT

UV = str(PROJECT_ROOT / ".tools" / "uv" / "bin" / "uv")


@cache
def load_release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_script", PROJECT_ROOT / "scripts" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_wheel(folder: Path) -> Path:
    """Build the wheel from the sdist, as a release does; returns its path."""
    wheel: Path = load_release().build(folder, version("forecache"))[0]
    return wheel
