"""`forecache query` and `forecache tables` on real Delta tables."""

import csv
import io
import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest

from forecache.base.settings import load_settings
from forecache.cli.main import main
from forecache.kit.delta.tables import append_rows


@pytest.fixture(autouse=True)
def _lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    rows = pa.table(
        {
            "customer_id": ["00001", "00002", "00003"],
            "as_of": pa.array([date(1998, 6, 29), date(1998, 6, 30), date(1998, 6, 30)]),
            "score": [0.25, 0.5, None],
        }
    )
    append_rows(load_settings(), "predictions_churn", rows, partition_by=("as_of",))


def test_query_as_json_has_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "select * from predictions_churn order by customer_id", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1:] == [
        {"customer_id": "00002", "as_of": "1998-06-30", "score": 0.5},
        {"customer_id": "00003", "as_of": "1998-06-30", "score": None},
    ]


def test_query_as_csv_has_a_header_and_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "select customer_id, score from predictions_churn order by 1", "--format", "csv"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows == [["customer_id", "score"], ["00001", "0.25"], ["00002", "0.5"], ["00003", ""]]


def test_query_table_says_what_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "select * from predictions_churn", "--limit", "2"]) == 0
    assert "3 rows, the first 2 shown" in capsys.readouterr().out


def test_query_of_an_unknown_table_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["query", "select * from predictions_chrun"])
    said = capsys.readouterr().err
    assert code in (3, 4)
    assert "Did you mean 'predictions_churn'?" in said
    assert "pg_" not in said  # DuckDB proposes its own tables
    assert said.count("\n") == 1


def test_query_with_wrong_sql_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "selec 1"]) == 4
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "statement",
    [
        "drop table predictions_churn",
        "delete from predictions_churn",
        "update predictions_churn set score = 0",
        "create table mine as select * from predictions_churn",
        "copy predictions_churn to 'mine.csv'",
        "attach 'mine.db'",
        "select 1; drop table predictions_churn",
    ],
)
def test_a_statement_that_writes_is_refused_in_one_sentence(statement: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", statement]) == 4
    said = capsys.readouterr().err
    assert "A query only reads" in said
    assert "Ask with SELECT" in said
    assert said.count("\n") == 1
    assert main(["query", "select count(*) n from predictions_churn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 3}]


def test_tables_lists_version_rows_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert (table["name"], table["version"], table["rows"], table["files"]) == ("predictions_churn", 0, 3, 2)
    assert main(["tables"]) == 0
    assert "predictions_churn" in capsys.readouterr().out


def test_damaged_table_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data_file in (tmp_path / "home" / "lake" / "predictions_churn").rglob("*.parquet"):
        data_file.write_bytes(b"damaged")
    assert main(["query", "select * from predictions_churn"]) != 0
    assert capsys.readouterr().err.count("\n") == 1
