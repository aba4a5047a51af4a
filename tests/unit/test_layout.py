"""The layout that CONTRIBUTING.md promises: short modules, each with a sentence, and every folder named there."""

import ast
import re
from pathlib import Path

import pytest

from forecache.base.settings import PROJECT_ROOT

MODULES = sorted((PROJECT_ROOT / "forecache").rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES if "template" not in path.parts})


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {str(path.relative_to(PROJECT_ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}


def test_every_module_says_in_a_docstring_what_it_is_for() -> None:
    assert [
        path for path in MODULES if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_contributing_names_every_folder(folder: Path) -> None:
    table = (PROJECT_ROOT / "CONTRIBUTING.md").read_text().partition("| Folder |")[2].partition("\n## ")[0]
    part = str(folder).partition(f"{PROJECT_ROOT}/forecache")[2].strip("/").split("/")
    rows = [row for row in table.splitlines() if row.startswith(f"| `{part[0]}/`")] if part[0] else ["forecache/"]
    assert rows
    if len(part) == 2:
        assert re.search(rf"`{part[1]}/`", rows[0])
    if len(part) == 1 and part[0]:
        named = set(re.findall(r"`(\w+)/`", rows[0])) - {part[0]}
        assert named <= {path.name for path in folder.rglob("*") if path.is_dir()}, "these folders are gone"
