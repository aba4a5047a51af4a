"""A statement that DuckDB refuses is answered in one sentence, with the names that it proposes."""

import tempfile
from pathlib import Path

import pytest

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.lake.query import query


def test_a_statement_spills_into_a_folder_of_its_own_that_is_gone_afterwards(settings: Settings) -> None:
    [row] = query(settings, "select current_setting('temp_directory') as folder").to_pylist()
    folder = Path(row["folder"])
    assert folder.parent == Path(tempfile.gettempdir())
    assert not folder.exists()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "select x from (select 1 as a) t",
            r'Referenced column "x" not found in FROM clause\. Candidate bindings: "a"\. Change the statement\.$',
        ),
        ("selec 1", r'syntax error at or near "selec"\. Change the statement\.$'),
    ],
)
def test_a_wrong_statement_is_told_with_what_may_be_meant(settings: Settings, statement: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        query(settings, statement)
