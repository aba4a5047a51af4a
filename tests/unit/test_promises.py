"""tests/promises.md names, for each promise of the README, tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISES = (ROOT / "tests" / "promises.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PROMISES)


def promised(text: str) -> set[str]:
    """The bold beginnings of the points under the README's heading "What holds"."""
    section = text.partition("## What holds\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^- \*\*(.+?)\.\*\*", section, re.MULTILINE))


def test_every_promise_of_the_readme_has_a_section_and_no_section_is_without_a_promise() -> None:
    sections = set(re.findall(r"^## (.+)$", PROMISES, re.MULTILINE))
    assert promised((ROOT / "README.md").read_text()) == sections


def test_every_section_names_a_test() -> None:
    sections = re.split(r"^## ", PROMISES, flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections if "`tests/" not in section] == []


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_exists(file: str, name: str) -> None:
    assert name in functions(file)
