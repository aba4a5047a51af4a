"""Small tables of earlier versions, whose column `night` has another name today: the same rows at every moment."""

import operator
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake
from earlier_tables import DAY, TODAY, counted, some_rows, stored, write_as_earlier

from forecache.base.settings import Settings
from forecache.kit.delta import small_tables
from forecache.kit.delta.small_tables import append_to_small_table, read_small_table
from forecache.kit.delta.tables import table_version
from forecache.lake.ledger import StageRecord, append_records, last_record
from forecache.lake.query import query
from forecache.models.registry.model_versions import read_version
from forecache.plugins.maintenance.lake import maintain_lake, pinned_versions

_COMPARE = {"=": operator.eq, ">=": operator.ge, "<=": operator.le}
both = pytest.mark.parametrize("name", TODAY)


def require_equal(settings: Settings, name: str, truth: list[dict[str, Any]]) -> None:
    """Reads with every filter on a date, and SQL, return the rows of the truth."""
    version = table_version(settings, name)
    assert counted(read_small_table(settings, name, [])) == counted(truth)
    columns = [each for each, value in truth[0].items() if isinstance(value, date) and each != "recorded_at"]
    assert TODAY[name][0] in columns
    for column in columns:
        for day in (DAY + timedelta(days=number) for number in range(-3, 9)):
            for sign, compare in _COMPARE.items():
                wanted = [row for row in truth if row[column] is not None and compare(row[column], day)]
                assert counted(read_small_table(settings, name, [(column, sign, day)])) == counted(wanted)
            some = [row for row in truth if row[column] in (day, DAY)]
            assert counted(read_small_table(settings, name, [(column, "in", [day, DAY])])) == counted(some)
    asked = query(settings, f"select * from {name} where {TODAY[name][0]} >= date '{DAY + timedelta(days=3)}'")
    later = [row for row in truth if row[TODAY[name][0]] and row[TODAY[name][0]] >= DAY + timedelta(days=3)]
    assert counted(asked.to_pylist()) == counted(later)
    assert table_version(settings, name) == version, "a read commits nothing"


def append(settings: Settings, name: str, numbers: range) -> list[dict[str, Any]]:
    rows = some_rows(name, numbers)
    append_to_small_table(settings, name, TODAY[name][1], lambda _: rows)
    return rows


@both
def test_rows_of_an_earlier_version_are_read_under_todays_names_and_renamed_by_the_first_append(
    settings: Settings, name: str
) -> None:
    truth = some_rows(name, range(1, 60))
    write_as_earlier(settings, name, truth, files=4)
    require_equal(settings, name, truth)
    truth += append(settings, name, range(60, 65))
    assert table_version(settings, name) == 4, "old rows and new ones in one commit"
    assert DeltaTable(settings.table_uri(name)).schema().to_arrow().names == TODAY[name][1].names
    assert counted(stored(settings, name)) == counted(truth)
    require_equal(settings, name, truth)
    truth += append(settings, name, range(65, 70))
    assert table_version(settings, name) == 5
    require_equal(settings, name, truth)


@both
@pytest.mark.parametrize("kept_rows", [0, 1_024])
def test_rows_that_an_earlier_version_adds_once_more_are_read_with_the_others(
    settings: Settings, name: str, kept_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_tables, "_KEPT_FILE_ROWS", kept_rows)
    truth = some_rows(name, range(1, 20))
    write_as_earlier(settings, name, truth)
    truth += append(settings, name, range(20, 40))
    late = some_rows(name, range(40, 60))
    write_as_earlier(settings, name, late, files=2)
    truth += late
    assert "night" in DeltaTable(settings.table_uri(name)).schema().to_arrow().names
    require_equal(settings, name, truth)
    DeltaTable(settings.table_uri(name)).optimize.compact()  # a file has both columns
    assert len(DeltaTable(settings.table_uri(name)).file_uris()) == 1
    require_equal(settings, name, truth)
    truth += append(settings, name, range(60, 62))
    assert "night" not in DeltaTable(settings.table_uri(name)).schema().to_arrow().names
    require_equal(settings, name, truth)


@both
def test_a_table_without_columns_that_came_later_gets_them_in_the_same_commit(settings: Settings, name: str) -> None:
    truth = some_rows(name, range(1, 20))
    write_as_earlier(settings, name, truth)
    lacking = "commit_version" if name == "stage_ledger" else "reference_rows"
    table = DeltaTable(settings.table_uri(name)).to_pyarrow_table().drop_columns([lacking])
    write_deltalake(settings.table_uri(name), table, mode="overwrite", schema_mode="overwrite")
    truth = [row | {lacking: None} for row in truth]
    version = table_version(settings, name)
    truth += append(settings, name, range(20, 25))
    assert table_version(settings, name) == version + 1
    require_equal(settings, name, truth)


@both
def test_maintenance_renames_and_keeps_what_the_ledger_names(settings: Settings, name: str) -> None:
    truth = some_rows(name, range(1, 60))
    write_as_earlier(settings, name, truth, files=4)
    pins = pinned_versions(settings)
    maintain_lake(settings, [name], dry_run=True)
    require_equal(settings, name, truth)
    assert "night" in DeltaTable(settings.table_uri(name)).schema().to_arrow().names
    maintain_lake(settings, [name])
    table = DeltaTable(settings.table_uri(name))
    assert (table.schema().to_arrow().names, len(table.file_uris())) == (TODAY[name][1].names, 1)
    require_equal(settings, name, truth)
    assert pinned_versions(settings) == pins
    version = table_version(settings, name)
    maintain_lake(settings, [name])
    assert table_version(settings, name) == version


def test_the_date_in_details_of_an_earlier_version_has_todays_name(settings: Settings) -> None:
    details = {"night": "2026-01-01", "seed": 1}
    append_records(settings, [StageRecord("train", "churn", None, "in", "", -1, 1, 0.1, details)])
    found = last_record(settings, "train", "churn")
    assert found is not None
    assert dict(found.details) == {"as_of": "2026-01-01", "seed": 1}


def test_the_date_in_tags_of_a_model_of_an_earlier_version_has_todays_name() -> None:
    registered = SimpleNamespace(name="churn", version="3", run_id="run", creation_timestamp=0)
    found = read_version(registered, (), {"night": "2026-01-01", "gate": "passed"})
    assert (found.tags, found.gate) == ({"as_of": "2026-01-01", "gate": "passed"}, "passed")
