"""What `forecache demo` proposes next is a command that the project's first declaration has."""

from pathlib import Path

import pytest
from shelf_project.pipelines.shelf import offers

from forecache.base.settings import load_settings
from forecache.plugins.new_project.demo_command import _print_next_steps


def test_an_answer_of_a_recommender_is_read_and_not_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_next_steps(load_settings(home=tmp_path), [offers], {}, [{"key": "c001"}])
    shown = capsys.readouterr().out
    assert "forecache get offers c001" in shown
    assert "explain" not in shown
