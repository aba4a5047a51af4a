"""Landing files of `forecache demo`, from the rows that a project yields."""

from datetime import date
from pathlib import Path

import pytest

from forecache.base.errors import SettingsError
from forecache.base.settings import Settings, load_settings
from forecache.plugins.new_project.demo_data import land_demo_data

LANDING = """
from datetime import date
from dagster_project.purchases import PURCHASES

def landing_days():
    yield PURCHASES, date(1997, 1, 1), [("00001", "1997-01-01", 1, 2.5), ('a,"b', "1997-01-01", 2, 3.0)]
    yield PURCHASES, date(1997, 1, 2), [("00002", "1997-01-02", 1, 1.0)]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Settings:
    """Settings of a project, named for the test, that has a `landing` module and nothing else."""
    name = f"landing_project_{request.node.name}"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "landing.py").write_text(LANDING)
    monkeypatch.syspath_prepend(str(tmp_path))
    return load_settings(home=tmp_path / "home", project=name)


def test_rows_become_one_csv_a_day_and_files_that_are_there_stay(project: Settings) -> None:
    folder = Path(project.landing_uri) / "purchases"
    folder.mkdir(parents=True)
    (folder / "1997-01-02.csv").write_text("as it was")
    (landed,) = land_demo_data(project)
    assert (landed.stage, landed.subject, landed.rows, landed.skipped) == ("land", "purchases", 3, False)
    assert landed.details == {"files": 1}
    assert (folder / "1997-01-01.csv").read_text() == (
        'customer_id,date,quantity,amount\n00001,1997-01-01,1,2.5\n"a,""b",1997-01-01,2,3.0\n'
    )
    assert (folder / "1997-01-02.csv").read_text() == "as it was"
    assert [result.skipped for result in land_demo_data(project)] == [True]


def test_an_arrow_table_becomes_a_parquet_file_and_other_days_than_the_projects_can_be_given(project: Settings) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dagster_project.purchases import PURCHASES

    table = pa.table({"customer_id": ["00001"], "date": ["1997-01-01"], "quantity": [1], "amount": [2.5]})
    days = [(PURCHASES, date(1997, 1, 1), table)]
    (landed,) = land_demo_data(project, days)
    assert (landed.rows, landed.skipped) == (1, False)
    assert pq.read_table(Path(project.landing_uri) / "purchases" / "1997-01-01.parquet").equals(table)
    assert [result.skipped for result in land_demo_data(project, days)] == [True]


def test_a_project_without_landing_days_is_told_what_the_demo_needs(project: Settings, tmp_path: Path) -> None:
    (tmp_path / project.project / "landing.py").write_text("")
    with pytest.raises(SettingsError, match=rf"needs a function landing_days\(\) in {project.project}.landing"):
        land_demo_data(project)
