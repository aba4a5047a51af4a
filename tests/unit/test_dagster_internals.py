"""Dagster's private API stands in one module, which was checked with the installed version."""

import re
from pathlib import Path

import dagster as dg

from resources import dagster_internals

ROOT = Path(__file__).parent.parent.parent
ORCHESTRATOR = ("dagster_project", "jobs", "assets", "resources")


def test_installed_dagster_is_the_version_that_its_private_api_was_checked_with() -> None:
    assert dg.__version__ == dagster_internals.CHECKED_WITH, (
        f"Dagster {dg.__version__} is installed, and resources/dagster_internals.py was checked with "
        f"{dagster_internals.CHECKED_WITH}. Private names may have changed: run tests/integration/test_dagster_*.py, "
        "correct what fails, and set CHECKED_WITH."
    )


def test_no_other_module_names_private_api_of_dagster() -> None:
    private = re.compile(r"\bdagster\._\w")
    files = [path for folder in ORCHESTRATOR for path in sorted((ROOT / folder).rglob("*"))]
    files += sorted((ROOT / "forecache").rglob("*.py"))
    naming = [
        str(path.relative_to(ROOT))
        for path in files
        if path.suffix in (".py", ".yaml") and private.search(path.read_text())
    ]
    assert naming == ["resources/dagster_internals.py"]
