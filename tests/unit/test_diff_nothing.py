"""`forecache diff` of what neither side has is no success: a wrong date in CI would pass every limit."""

from datetime import date
from pathlib import Path

import pytest

from forecache.base.errors import NotFoundError
from forecache.base.settings import load_settings
from forecache.plugins.diff.environment_diff import diff_environments, require_names
from forecache.plugins.diff.texts import render_markdown, summary

DAY = date(2026, 1, 9)


def test_names_without_rows_on_either_side_are_not_said_to_be_equal(tmp_path: Path) -> None:
    before, after = (load_settings("", home=tmp_path / side, project="windowed_project") for side in "ab")
    found = diff_environments(before, after, ["spend"], nights=(DAY, DAY))
    assert (found.names, found.equal, found.absent) == ([], [], ["spend"])
    assert summary(found).endswith("Neither side has rows of spend.")
    assert "Neither side has rows of spend." in render_markdown(found)
    with pytest.raises(NotFoundError, match="neither local nor local has rows of spend"):
        require_names(found)
