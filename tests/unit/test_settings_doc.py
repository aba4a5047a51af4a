"""docs/reference/settings.md is what `make settings-doc` prints."""

from pathlib import Path

import pytest

from forecache.cli.main import main

ROOT = Path(__file__).parents[2]


def test_the_documents_table_is_the_one_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--markdown"]) == 0
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert page.endswith(f"\n\n{capsys.readouterr().out.strip()}\n")
