"""Files that are unreadable, empty, changed, late, copies, or still being written."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from landed_orders import D1, D2, D3, HEADER, ORDERS, Land, landing, rows

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.ingested_files import ingested_files, last_raw_version, require_days
from forecache.lake.ingest.typed_files import FileReader
from forecache.lake.ingest.typed_rows import JudgedRows


@pytest.fixture
def land(settings: Settings) -> Land:
    return landing(settings)


def test_unreadable_and_empty_files_are_quarantined_whole_and_the_night_says_why(
    settings: Settings, spark: Any, land: Land
) -> None:
    land("2026-01-01.csv", "")
    land("2026-01-02.csv", "order_id,customer_id,at\no1,a,2026-01-02\n")
    land("2026-01-03.csv", HEADER + "o1,a,2026-01-03T10:00:00Z,5\n")
    result = ingest(settings, ORDERS)
    assert result.details["quarantined_files"] == {
        "2026-01-01.csv": "the file is empty",
        "2026-01-02.csv": "the column 'amount' is missing",
    }
    quarantined = rows(settings, "select source_file, source_line from quarantine_orders order by source_file")
    assert quarantined == [{"source_file": f"2026-01-0{day}.csv", "source_line": 0} for day in (1, 2)]
    require_days(settings, ORDERS, [D3])
    with pytest.raises(InputError, match=r"'2026-01-02\.csv' of source 'orders' is in quarantine: the column 'amount'"):
        require_days(settings, ORDERS, [D2])
    with pytest.raises(InputError, match=r"As-of date 2026-01-04 is empty"):
        require_days(settings, ORDERS, [date(2026, 1, 4)])


@pytest.mark.parametrize("unique", [("order_id",), ()])
def test_a_file_that_is_unreadable_only_at_its_end_gives_no_rows(
    settings: Settings, land: Land, unique: tuple[str, ...]
) -> None:
    """It is read in pieces of 4 MiB, and rows of the first ones are written before the last one is looked at."""
    source = replace(ORDERS, unique=unique)
    good = [f"{number},a,2026-01-01T10:00:00Z,5\n" for number in range(300_000)]
    land("2026-01-01.csv", HEADER + "x,a,2026-01-01T10:00:00Z,5\n")
    land("2026-01-01.2.csv", (HEADER + "0,a,2026-01-01T10:00:00Z,-1\n" + "".join(good)).encode() + b"1,\xff\n")
    land("2026-01-01.3.csv", HEADER + "".join(good) + '1,"a,2026-01-01T10:00:00Z,5\n')
    land("2026-01-01.4.csv", HEADER + "1,a,2026-01-01T10:00:00Z,5\n2,a,2026-01-01T10:00:00Z,-5\n")
    result = ingest(settings, source)
    assert result.details["quarantined_files"] == {
        "2026-01-01.2.csv": "line 300003 is not UTF-8: can't decode byte 0xff",
        "2026-01-01.3.csv": "the last quoted field never ends: unexpected end of data",
    }
    assert rows(settings, "select order_id, source_file from raw_orders order by order_id") == [
        {"order_id": "1", "source_file": "2026-01-01.4.csv"},
        {"order_id": "x", "source_file": "2026-01-01.csv"},
    ]
    quarantined = rows(settings, "select source_file, source_line from quarantine_orders order by all")
    assert [(row["source_file"], row["source_line"]) for row in quarantined] == [
        ("2026-01-01.2.csv", 0), ("2026-01-01.3.csv", 0), ("2026-01-01.4.csv", 3),
    ]  # fmt: skip
    counts = {file.file: (file.landing_rows, file.raw_rows) for file in ingested_files(settings, source)}
    assert counts == {
        "2026-01-01.2.csv": (0, 0), "2026-01-01.3.csv": (0, 0), "2026-01-01.4.csv": (2, 1), "2026-01-01.csv": (1, 1),
    }  # fmt: skip


def test_a_day_with_many_unreadable_files_is_read_three_times_at_most(
    settings: Settings, land: Land, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[str]()
    read_rows = FileReader.read_rows

    def count_reads(reader: FileReader) -> Iterator[JudgedRows]:
        read.append(reader._name)
        return read_rows(reader)

    monkeypatch.setattr(FileReader, "read_rows", count_reads)
    for number in range(20):
        end = "" if number % 2 else '1,"a,2026-01-01T10:00:00Z,5\n'
        land(f"2026-01-01.{number}.csv", HEADER + f"{number},a,2026-01-01T10:00:00Z,5\n" + end)
    result = ingest(settings, replace(ORDERS, unique=()))
    assert len(result.details["quarantined_files"]) == 10
    found = rows(settings, "select order_id from raw_orders")
    assert sorted(int(row["order_id"]) for row in found) == list(range(1, 20, 2))
    assert max(Counter(read).values()) <= 3


def test_changed_file_is_an_error_and_new_files_are_ingested_all_the_same(
    settings: Settings, spark: Any, land: Land
) -> None:
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\n")
    ingest(settings, ORDERS)
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,6\n")
    land("2026-01-02.csv", HEADER + "o2,a,2026-01-02T10:00:00Z,7\n")
    with pytest.raises(
        InputError, match=r"'2026-01-01\.csv' of source 'orders' has changed.*such as 2026-01-01\.2\.csv"
    ):
        ingest(settings, ORDERS)
    assert rows(settings, "select order_id, amount from raw_orders order by order_id") == [
        {"order_id": "o1", "amount": 5.0},
        {"order_id": "o2", "amount": 7.0},
    ]


def test_touched_file_with_the_same_content_is_no_error(settings: Settings, spark: Any, land: Land) -> None:
    import os

    path = land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\n")
    ingest(settings, ORDERS)
    os.utime(path, (1, 1))
    assert ingest(settings, ORDERS).skipped


def test_late_file_is_ingested_beside_the_first_and_moves_the_state_of_later_nights_only(
    settings: Settings, spark: Any, land: Land
) -> None:
    for day in (1, 2, 3):
        land(f"2026-01-0{day}.csv", HEADER + f"o{day},a,2026-01-0{day}T10:00:00Z,5\n")
    ingest(settings, ORDERS)
    before = [last_raw_version(settings, ORDERS, night) for night in (D1, D2, D3)]
    land("2026-01-02.late.csv", HEADER + "o9,a,2026-01-02T11:00:00Z,5\no1,a,2026-01-02T11:00:00Z,5\n")
    result = ingest(settings, ORDERS)
    assert result.details["late_days"] == ["2026-01-02"]
    assert (result.details["raw_rows"], result.details["quarantined_rows"]) == (1, 1)
    after = [last_raw_version(settings, ORDERS, night) for night in (D1, D2, D3)]
    assert [b == a for b, a in zip(before, after, strict=True)] == [True, False, False]


def test_copy_of_a_file_of_the_same_day_is_quarantined_whole(settings: Settings, spark: Any, land: Land) -> None:
    content = HEADER + "o1,a,2026-01-01T10:00:00Z,5\n"
    land("2026-01-01.csv", content)
    ingest(settings, ORDERS)
    land("2026-01-01.again.csv", content)
    land("2026-01-02.a.csv", HEADER)
    land("2026-01-02.b.csv", HEADER)
    land("2026-01-03.a.csv", HEADER + "o2,a,2026-01-03T10:00:00Z,5\n")
    land("2026-01-03.b.csv", HEADER + "o2,a,2026-01-03T10:00:00Z,5\n")
    assert ingest(settings, ORDERS).details["quarantined_files"] == {
        "2026-01-01.again.csv": "it is a copy of '2026-01-01.csv', a file of the same day",
        "2026-01-03.b.csv": "it is a copy of '2026-01-03.a.csv', a file of the same day",
    }
    found = rows(settings, "select order_id, source_file from raw_orders order by 1")
    assert [row["source_file"] for row in found] == ["2026-01-01.csv", "2026-01-03.a.csv"]


def test_counts_of_every_file_reconcile_and_files_being_written_are_left_alone(
    settings: Settings, spark: Any, land: Land
) -> None:
    land("2026-01-01.csv", HEADER + "o1,a,2026-01-01T10:00:00Z,5\no2,a,2026-01-01T10:00:00Z,-5\n")
    land(".2026-01-02.csv", HEADER)
    land("_SUCCESS", "")
    ingest(settings, ORDERS)
    (file,) = ingested_files(settings, ORDERS)
    assert file.landing_rows == file.raw_rows + file.quarantined_rows == 2
    assert len(file.sha256) == 64
