"""State that earlier versions wrote is read, and the next date is added to it: the newest home of each release."""

import json
import os
import subprocess
import sys
import tarfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from earlier_tables import counted

from forecache.base.settings import load_settings
from forecache.kit.delta.small_tables import read_small_table, row_schema
from forecache.kit.delta.tables import table_version
from forecache.lake.ledger import StageRecord, append_records
from forecache.lake.query import query

HOMES = sorted((Path(__file__).parents[1] / "support" / "homes").glob("*.tar.xz"))
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=HOMES, ids=[path.name.removesuffix(".tar.xz") for path in HOMES])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project with its state, at another place than where it was written."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path)  # written by scripts/write_home.sh
    return tmp_path / "shop"


def forecache(project: Path, *arguments: str) -> Any:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    done = subprocess.run(
        [sys.executable, "-m", "forecache.cli.main", *arguments, "--json"],
        cwd=project, env=kept | {"PYTHONPATH": f"{ROOT}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_there_is_a_home_of_the_last_release() -> None:
    assert HOMES


def test_the_ledger_of_an_earlier_version_has_the_same_rows_before_and_after_todays_version_adds_one(
    project: Path,
) -> None:
    settings = load_settings(home=project / ".forecache")
    table = DeltaTable(settings.table_uri("stage_ledger"))
    found, names = table.to_pyarrow_table().to_pylist(), row_schema(StageRecord).names
    truth = [{("as_of" if name == "night" else name): value for name, value in row.items()} for row in found]
    dates = {row["as_of"] for row in truth}
    assert len(truth) > 10
    assert len(dates) > 2

    def require_equal(rows: list[dict[str, Any]]) -> None:
        assert counted(rows) == counted(truth)
        for day in dates - {None}:
            wanted = [row for row in truth if row["as_of"] == day]
            of_day = read_small_table(settings, "stage_ledger", [("as_of", "=", day)])
            assert counted([row for row in of_day if row["subject"] != "added"]) == counted(wanted)

    require_equal(read_small_table(settings, "stage_ledger", []))
    require_equal(query(settings, "select * from stage_ledger").to_pylist())
    version = table_version(settings, "stage_ledger")
    assert version == table.version()
    append_records(settings, [StageRecord("score", "added", max(dates - {None}), "in", "t", 1, 1, 0.1)])
    assert table_version(settings, "stage_ledger") == version + 1
    now = DeltaTable(settings.table_uri("stage_ledger")).to_pyarrow_table()
    assert now.column_names == names
    for rows in (now.to_pylist(), read_small_table(settings, "stage_ledger", [])):
        require_equal([row for row in rows if row["subject"] != "added"])
        assert [row["commit_version"] for row in rows if row["subject"] == "added"] == [version + 1]


def test_a_home_of_an_earlier_version_answers_as_it_did_and_takes_the_next_date(project: Path) -> None:
    wanted = json.loads((project / "answers.json").read_text())
    rows = "select customer, return_probability from predictions_returns where as_of = '{}' order by customer"
    [last] = forecache(project, "query", "select max(as_of) as day from predictions_returns")
    assert forecache(project, "query", rows.format(last["day"])) == wanted
    chosen = wanted[len(wanted) // 2]
    answer = forecache(project, "get", "returns", chosen["customer"])
    assert answer["value"]["return_probability"] == chosen["return_probability"]
    chain = forecache(project, "explain", "returns", chosen["customer"])
    assert chain["raw"][0]["events"] > 0
    assert "champion" in chain["model"]["aliases"]

    day = date.fromisoformat(last["day"]) + timedelta(days=1)
    landed = project / ".forecache" / "landing" / "orders"
    header = (landed / f"{last['day']}.csv").read_text().splitlines()[0]
    (landed / f"{day}.csv").write_text(f"{header}\n99999999,{chosen['customer']},i01,12.5,{day} 10:00:00\n")
    forecache(project, "run", "--date", f"{day}")
    assert forecache(project, "query", rows.format(last["day"])) == wanted, "the earlier date is as it was"
    [count] = forecache(project, "query", f"select count(*) as n from predictions_returns where as_of = '{day}'")
    assert count["n"] >= len(wanted) * 0.9
    served = forecache(project, "get", "returns", chosen["customer"])
    assert (served["as_of"], served["store_version"]) == (str(day), answer["store_version"] + 1)
