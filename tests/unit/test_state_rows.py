"""The state of an existing table, read without Spark."""

from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from second_process import running

from forecache.base.errors import InputError, UnavailableError
from forecache.base.settings import load_settings
from forecache.declare import Column, Snapshot, Static, TableSource
from forecache.lake.sources import Pins
from forecache.plugins.table_sources.table_rows import existing_table_rows

COLUMNS = (Column("a", "string"), Column("n", "bigint"), Column("there", "boolean"), Column("day", "date"))
ROWS = pa.table(
    {
        "a": ["x", "y", "x"],
        "n": pa.array([1, 2, 3], pa.int32()),
        "there": [True, None, False],
        "day": [date(2026, 1, 1), date(2026, 1, 1), date(2026, 1, 3)],
    }
)


def rows(tmp_path: Path, source: TableSource, day: date, *columns: str) -> dict[str, list[Any]] | None:
    found = existing_table_rows(Pins(load_settings(home=tmp_path / "home")).pin(source), day, columns)
    return None if found is None else found.to_pydict()


@pytest.mark.parametrize("kind", ["delta", "parquet"])
def test_of_states_by_day_the_last_one_counts_also_where_the_day_is_a_partition(tmp_path: Path, kind: Any) -> None:
    if kind == "parquet":
        pq.write_to_dataset(ROWS, tmp_path / "t", partition_cols=["day"])
    else:
        write_deltalake(tmp_path / "t", ROWS, partition_by=["day"])
    source = TableSource("t", str(tmp_path / "t"), COLUMNS, time=Snapshot(day="day"), key=("a",), format=kind)
    assert rows(tmp_path, source, date(2025, 12, 31), "a") is None
    for day in (1, 2):
        found = rows(tmp_path, source, date(2026, 1, day), "there", "a")
        assert found == {"there": [True, None], "a": ["x", "y"]}
    assert rows(tmp_path, source, date(2026, 2, 1), "n") == {"n": [3]}


def test_of_states_by_version_the_last_one_up_to_the_day_counts_and_a_key_twice_is_refused(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", ROWS.slice(1))
    write_deltalake(tmp_path / "t", ROWS.slice(0, 1), mode="overwrite")
    source = TableSource("t", str(tmp_path / "t"), COLUMNS[:3], time=Snapshot(), key=("a",))
    assert rows(tmp_path, source, datetime.now(timezone.utc).date(), "a", "n") == {"a": ["x"], "n": [1]}
    assert rows(tmp_path, source, date(2026, 1, 1), "a") is None
    write_deltalake(tmp_path / "t", ROWS, mode="overwrite")
    with pytest.raises(InputError, match="Source 't' has the key a x in 2 rows of version 2 in "):
        rows(tmp_path, source, datetime.now(timezone.utc).date(), "a")


def test_a_file_that_is_gone_since_the_run_began_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    pq.write_table(ROWS, tmp_path / "t" / "one.parquet")
    source = TableSource("t", str(tmp_path / "t"), COLUMNS, time=Static(), format="parquet")
    pinned = Pins(load_settings(home=tmp_path / "home")).pin(source)
    (tmp_path / "t" / "one.parquet").unlink()
    with pytest.raises(InputError, match="Source 't' cannot be read: a file of .* was removed since the run began"):
        existing_table_rows(pinned, date(2026, 1, 1), ["a"])


_WRITES_ANEW = """
import os, shutil, sys
print(flush=True)
names = [os.path.join(sys.argv[1], name) for name in ("part-0.parquet", "part-1.parquet")]
while True:
    shutil.copyfile(names[0], names[1] + ".half")
    os.rename(names[1] + ".half", names[1])
    os.unlink(names[0])
    names.reverse()
"""


def test_a_file_that_its_writer_removes_while_it_is_looked_at_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    for name in ("part-0.parquet", "steady.parquet"):
        pq.write_table(ROWS, folder / name)
    source = TableSource("t", str(folder), COLUMNS, time=Static(), key=("a",), format="parquet")
    settings = load_settings(home=tmp_path / "home")

    def look_again_and_again() -> None:
        while True:
            assert Pins(settings).pin(source).files

    with running(_WRITES_ANEW, folder), pytest.raises(UnavailableError, match=r"part-\d.parquet in .* was removed"):
        look_again_and_again()
