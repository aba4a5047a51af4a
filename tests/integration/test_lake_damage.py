"""Missing and damaged data files: found by reading, and named with table and remedy whichever engine met them."""

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deltalake import DeltaTable
from store_tables import NEXT_NIGHT, churn, predictions, scores, write_night

from forecache.base.settings import Settings
from forecache.cli.main import main
from forecache.kit.delta import small_tables
from forecache.kit.delta.damage import as_damaged_error, find_damaged_files
from forecache.kit.delta.tables import read_table
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.registry.promotions import Promotion, last_promotion, record_promotion
from forecache.serve.store import publish

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture
def file(settings: Settings) -> Path:
    """The data file of the newer of two nights."""
    write_night(settings, predictions(scores(500)))
    write_night(settings, predictions(scores(500), night=NEXT_NIGHT), night=NEXT_NIGHT)
    assert list(find_damaged_files(settings)) == []
    [found] = Path(settings.table_uri("predictions_churn")).glob(f"as_of={NEXT_NIGHT}/*.parquet")
    return found


def missing(file: Path) -> None:
    file.unlink()


def truncated(file: Path) -> None:
    with open(file, "r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


def zeroed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4:-4] = bytes(len(content) - 8)
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [missing, truncated, zeroed])
def test_a_damaged_file_is_named_by_doctor_and_by_who_reads_it(
    settings: Settings, file: Path, harm: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(harm)
    harm(file)
    [found] = find_damaged_files(settings)
    assert (found.table, Path(found.path).name) == ("predictions_churn", file.name)
    assert "--rebuild" in found.remedy
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    assert main(["doctor", "--deep", "--json"]) == 1
    findings = {item["check"]: item for item in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["table files"]["state"] == "fail"
    assert file.name in findings["table files"]["found"]
    with pytest.raises(Exception) as caught:  # what delta-rs and Arrow raise is theirs
        publish(settings, churn())
    said = as_damaged_error(caught.value)
    assert said is not None, repr(caught.value)
    assert file.name in said.message
    assert "is missing or damaged" in said.message
    assert "doctor --deep" in said.remedy
    for command in (["publish", "churn", "--unchecked"], ["query", "select count(as_of) from predictions_churn"]):
        assert main(command) == 7
        assert file.name in capsys.readouterr().err


@pytest.mark.slow
def test_spark_s_own_error_is_named_too(settings: Settings, file: Path, spark: "SparkSession") -> None:
    for harm in (zeroed, missing):
        harm(file)
        spark.catalog.clearCache()
        with pytest.raises(Exception) as caught:  # Spark's
            read_table(spark, settings, "predictions_churn").toPandas()
        said = as_damaged_error(caught.value)
        assert said is not None, repr(caught.value)[:2000]
        assert file.name in said.message


def test_an_error_about_something_else_is_not_taken_for_a_damaged_file() -> None:
    assert as_damaged_error(ValueError("the column 'page' is not in raw_x/part-1.csv")) is None
    assert as_damaged_error(RuntimeError("lake/raw_x/part-1.parquet was written")) is None


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x80
    path.write_bytes(content)


def first_entry(table: Path) -> Path:
    return table / "_delta_log" / f"{0:020d}.json"


def last_entry(table: Path) -> Path:
    return max((table / "_delta_log").glob("*.json"))


def checkpoint(table: Path) -> Path:
    DeltaTable(str(table)).create_checkpoint()
    [found] = (table / "_delta_log").glob("*.checkpoint.parquet")
    return found


def rows_file(table: Path) -> Path:
    return max(table.glob("**/part-*.parquet"))


COMMANDS = [
    ("stage_ledger", ["publish", "churn", "--unchecked"]),
    ("stage_ledger", ["cost"]),
    ("stage_ledger", ["maintain"]),
    ("promotion_ledger", ["rollback", "churn"]),
    ("predictions_churn", ["query", "select count(*) from predictions_churn"]),
    ("predictions_churn", ["publish", "churn", "--unchecked"]),
    ("predictions_churn", ["maintain", "predictions_churn"]),
]
OF_LOG = [(*command, damaged) for command in COMMANDS for damaged in (first_entry, last_entry, checkpoint)]
OF_ROWS = [(*COMMANDS[1], rows_file), (*COMMANDS[3], rows_file)]


@pytest.mark.parametrize(("name", "command", "damaged"), [*OF_LOG, *OF_ROWS])
def test_a_damaged_file_of_a_table_or_its_log_is_named_by_each_command(
    settings: Settings,
    file: Path,
    name: str,
    command: list[str],
    damaged: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(3):
        append_records(settings, [StageRecord("score", "churn", NEXT_NIGHT, f"i{number}", "", -1, 1, 0.1)])
        record_promotion(settings, a_promotion(number), after=last_promotion(settings, "churn"))
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    path = damaged(Path(settings.table_uri(name)))
    flip(path, path.stat().st_size - 6 if path.suffix == ".parquet" else path.stat().st_size // 2)
    small_tables._table_reader.cache_clear()  # each command is a process of its own
    assert main(command) == 7
    said = " ".join(capsys.readouterr().err.split())
    assert path.name in said
    assert f"of the table '{name}' is missing or damaged" in said
    [found] = find_damaged_files(settings)
    assert (found.table, Path(found.path).name) == (name, path.name)


def a_promotion(version: int) -> Promotion:
    return Promotion(
        recorded_at=datetime.now(timezone.utc), pipeline="churn", action="gate", actor="test", from_version=None,
        to_version=version, verdict="passed", reason="", training_table="", training_version=-1,
    )  # fmt: skip
