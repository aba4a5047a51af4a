"""A copy of a sample project that a test edits, as a team changes its declarations between two runs."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent


class EditedProject:
    """A copy of a sample project in a folder, which this process imports anew after each edit."""

    def __init__(self, folder: Path, sample: str) -> None:
        self.name, self.folder = sample, folder / sample
        shutil.copytree(SUPPORT / sample, self.folder, ignore=shutil.ignore_patterns("__pycache__"))

    def edit(self, module: str, old: str, new: str) -> None:
        """Change a module's text, and forget what was imported."""
        file = self.folder / f"{module}.py"
        text = file.read_text()
        assert text.count(old) == 1, (module, old)
        file.write_text(text.replace(old, new))
        self.forget()

    def forget(self) -> None:
        for name in _imported(self.name):
            del sys.modules[name]
        importlib.invalidate_caches()


@contextmanager
def edited_project(folder: Path, sample: str) -> Iterator[EditedProject]:
    """A copy that stands for the sample during the block; what other tests have imported of it is there again after."""
    before = {name: sys.modules.pop(name) for name in _imported(sample)}
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        patched.setattr(sys, "dont_write_bytecode", True)
        made = EditedProject(folder, sample)
        yield made
        made.forget()
        sys.modules.update(before)


def _imported(project: str) -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == project]
