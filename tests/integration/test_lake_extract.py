"""A real PostgreSQL as a source: its rows become landing files, once, whole, and without its password anywhere."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from store_services import minio_server, postgres_server

from forecache.base.errors import InputError, SettingsError, UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Column, Query, Snapshot, Source, Static
from forecache.kit.delta.tables import open_table
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.ingested_files import ingested_files
from forecache.lake.ingest.landing import list_landing
from forecache.lake.ledger import last_records
from forecache.lake.query import query
from forecache.lake.sources import require_delivered, source_state
from forecache.plugins.table_sources.days_to_extract import days_to_extract
from forecache.plugins.table_sources.extract import extract

PASSWORD = "not-to-be-seen"
D = [date(2026, 1, 1) + timedelta(days=number) for number in range(8)]
NOW = datetime(2026, 1, 5, 3, tzinfo=timezone.utc)
"""The day that has just ended is D[3]."""
SALES = Source(
    "sales",
    columns=(
        Column("sale_id", "bigint"),
        Column("product_id", "int", minimum=1),
        Column("amount", "double", required=False),
        Column("is_return", "boolean"),
        Column("note", "string", required=False),
        Column("sold_at", "timestamp"),
    ),
    event_time="sold_at",
    unique=("sale_id",),
    start=D[0],
    extract=Query("shop", table="shop.sales"),
)
PRODUCTS = Source(
    "products",
    columns=(Column("product_id", "int"), Column("price", "double")),
    time=Snapshot(),
    key=("product_id",),
    start=D[0],
    extract=Query("shop", sql="select product_id, price::float8 from shop.products"),
)
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres_server(tmp_path_factory.mktemp("pg") / "server", password=PASSWORD) as url:
        yield url


@contextmanager
def filled(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Sales of four days, some of them at a day's very first and last moment, and in another time zone."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop schema if exists shop cascade")
        connection.execute("create schema shop")
        connection.execute(
            "create table shop.sales (sale_id bigint, product_id int, amount numeric(10, 2), is_return boolean, "
            "note text, sold_at timestamptz, secret text default 'never extracted')"
        )
        connection.execute("create table shop.products (product_id int, price numeric)")
        rows = [
            (1, 1, "10.50", False, None, "2026-01-01 00:00:00+00"),
            (2, 1, None, True, 'a "b", ünï\ncöde', "2026-01-01 23:59:59.999999+00"),
            (3, 2, "0.10", False, "", "2026-01-03 01:00:00+05"),
            (4, 0, "7", False, "below the minimum", "2026-01-03 12:00:00+00"),
            (5, 3, "8", False, "late", "2026-01-04 23:00:00+00"),
            (6, 3, "9", False, "of today", "2026-01-05 01:00:00+00"),
        ]
        for row in rows:
            connection.execute("insert into shop.sales values (%s, %s, %s, %s, %s, %s)", row)
        connection.execute("insert into shop.products values (1, 10), (2, 20.25)")
        yield connection


@pytest.fixture
def database(url: str) -> Iterator[psycopg.Connection[Any]]:
    with filled(url) as connection:
        yield connection


@pytest.fixture
def shop(settings: Settings, url: str) -> Settings:
    return settings.model_copy(update={"databases": {"shop": url}})


@pytest.fixture(scope="module")
def ingested(url: str, spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the sales of two days, each extracted and ingested by itself."""
    settings = load_settings(home=tmp_path_factory.mktemp("ingested") / "home", databases={"shop": url})
    with filled(url):
        for day in D[:2]:
            extract(settings, SALES, [day], now=NOW)
            ingest(settings, SALES, days=[day])
    return settings.home_path


@pytest.fixture
def two_days(shop: Settings, ingested: Path) -> Settings:
    shutil.copytree(ingested, shop.home_path)
    return shop


def landed(settings: Settings, source: Source) -> list[str]:
    return [file.name for file in list_landing(settings, source)]


def test_rows_of_each_day_that_is_over_land_once_and_are_ingested(shop: Settings, spark: Any, database: Any) -> None:
    result = extract(shop, SALES, D, now=NOW)
    assert (result.nights, result.rows) == (tuple(D[:4]), 5)
    assert landed(shop, SALES) == [f"{day}.parquet" for day in D[:4]]
    assert [path.name for path in (Path(shop.landing_uri) / "sales").iterdir() if path.name.startswith(".")] == []
    again = extract(shop, SALES, D, now=NOW)
    assert (again.skipped, again.nights) == (True, ())
    ingest(shop, SALES)
    rows = query(shop, "select * exclude (source_line, ingested_at) from raw_sales order by sale_id").to_pylist()
    utc = timezone.utc
    assert [tuple(row.values()) for row in rows] == [
        (1, 1, 10.5, False, None, datetime(2026, 1, 1, tzinfo=utc), D[0], f"{D[0]}.parquet"),
        (2, 1, None, True, 'a "b", ünï\ncöde', datetime(2026, 1, 1, 23, 59, 59, 999999, utc), D[0], f"{D[0]}.parquet"),
        (3, 2, 0.1, False, "", datetime(2026, 1, 2, 20, tzinfo=utc), D[1], f"{D[1]}.parquet"),
        (5, 3, 8.0, False, "late", datetime(2026, 1, 4, 23, tzinfo=utc), D[3], f"{D[3]}.parquet"),
    ]
    bad = query(shop, "select source_file, reason from quarantine_sales").to_pylist()
    assert bad == [{"source_file": f"{D[2]}.parquet", "reason": "product_id 0 is below the minimum 1"}]
    require_delivered(shop, SALES, D[:4])
    with pytest.raises(InputError, match="source 'sales' was not extracted for that day. Run `forecache ingest` once"):
        require_delivered(shop, SALES, [D[4]])
    records = last_records(shop, "extract", "sales")
    assert {day: record.rows for day, record in records.items()} == {D[0]: 2, D[1]: 1, D[2]: 1, D[3]: 1}


def test_day_that_was_ingested_is_not_asked_for_again_when_its_file_is_gone(two_days: Settings) -> None:
    (Path(two_days.landing_uri) / "sales" / f"{D[0]}.parquet").unlink()
    assert days_to_extract(two_days, SALES, first=D[0], last=D[1], now=NOW) == []


def test_home_that_was_copied_without_times_of_files_ingests_nothing_anew(two_days: Settings, spark: Any) -> None:
    before = source_state(two_days, SALES, D[:2])
    for file in (Path(two_days.landing_uri) / "sales").iterdir():
        os.utime(file, (1_000_000_000, 1_000_000_000))
    ingest(two_days, SALES, correctable=D[:2])
    assert source_state(two_days, SALES, D[:2]) == before


def test_rebuilt_day_takes_the_place_of_the_one_before(two_days: Settings, spark: Any, database: Any) -> None:
    database.execute("update shop.sales set amount = 99 where sale_id = 1")
    result = extract(two_days, SALES, [D[0]], rebuild=True, now=NOW)
    assert result.nights == (D[0],)
    ingest(two_days, SALES, days=[D[0]], correctable=[D[0]])
    rows = query(two_days, "select sale_id, amount from raw_sales order by sale_id").to_pylist()
    assert [tuple(row.values()) for row in rows] == [(1, 99.0), (2, None), (3, 0.1)]


@pytest.mark.parametrize("change", ["delete from shop.sales where sale_id < 3", "update shop.sales set product_id = 0"])
def test_rebuilt_day_that_lost_all_its_rows_changes_the_state_of_later_nights(
    two_days: Settings, spark: Any, database: Any, change: str
) -> None:
    before = source_state(two_days, SALES, D[:2])
    database.execute(change)
    extract(two_days, SALES, [D[0]], rebuild=True, now=NOW)
    ingest(two_days, SALES, days=[D[0]], correctable=[D[0]])
    assert query(two_days, "select sale_id from raw_sales")["sale_id"].to_pylist() == [3]
    after = source_state(two_days, SALES, D[:2])
    assert [after[day] != before[day] for day in D[:2]] == [True, True]


def test_day_is_asked_for_again_while_rows_come_late_and_lands_again_only_where_they_did(
    shop: Settings, spark: Any, database: Any
) -> None:
    late = dataclasses.replace(SALES, extract=Query("shop", table="shop.sales", late_days=2))

    def asked(hours: int) -> list[date]:
        days = days_to_extract(shop, late, first=D[0], last=D[7], now=NOW + timedelta(hours=hours))
        assert extract(shop, late, D, now=NOW + timedelta(hours=hours)).nights == tuple(days)
        return days

    def written() -> dict[date | None, datetime]:
        return {file.day: file.modified_at for file in list_landing(shop, late)}

    assert asked(0) == D[:4]
    assert asked(1) == []
    ingest(shop, late)
    before, states = written(), source_state(shop, late, D[:4])
    # The same rows in another order.
    database.execute("update shop.sales set note = note where sale_id = 1")
    database.execute("insert into shop.sales values (9, 9, 9, false, null, '2026-01-04 05:00:00+00')")
    # The 1st and the 2nd were over for longer than two days when they were asked for first.
    assert asked(24) == [D[2], D[3], D[4]]
    assert {day for day, at in written().items() if before.get(day) != at} == {D[3], D[4]}
    ingest(shop, late, correctable=D)
    assert query(shop, "select sale_id from raw_sales order by 1")["sale_id"].to_pylist() == [1, 2, 3, 5, 6, 9]
    after = source_state(shop, late, D[:4])
    assert [after[day] != states[day] for day in D[:4]] == [False, False, False, True]
    assert asked(48) == [D[3], D[4], D[5]]
    assert asked(72) == [D[4], D[5], D[6]]


def test_query_with_bounds_gets_those_of_the_day_whatever_the_columns_type(shop: Settings, database: Any) -> None:
    database.execute("create table shop.visits (who text, day date, at timestamp)")
    database.execute("insert into shop.visits select 'a', d, d + time '23:59:59.999999' from (values "
                     "(date '2026-01-01'), (date '2026-01-02'), (date '2026-01-03')) v (d)")  # fmt: skip
    database.execute("alter role shop set timezone = 'Asia/Tokyo'")
    for column in ("day", "at"):
        columns = (Column("who", "string"), Column(column, "date" if column == "day" else "timestamp"))
        sql = f"select who, {column} from shop.visits where {column} >= :start and {column} < :end"
        visits = Source(f"visits_{column}", columns, column, start=D[0], extract=Query("shop", sql=sql))
        extract(shop, visits, [D[1]], now=NOW)
        [row] = pq.read_table(Path(shop.landing_uri) / visits.name / f"{D[1]}.parquet").to_pylist()
        assert row == {"who": "a", column: "2026-01-02" if column == "day" else "2026-01-02 23:59:59.999999"}
    database.execute("alter role shop reset timezone")


def test_snapshot_is_extracted_for_the_day_that_has_just_ended_and_no_other(
    shop: Settings, spark: Any, database: Any
) -> None:
    assert days_to_extract(shop, PRODUCTS, first=D[0], last=D[2], now=NOW) == []
    assert extract(shop, PRODUCTS, D, now=NOW).nights == (D[3],)
    assert extract(shop, PRODUCTS, D, now=NOW).skipped
    with pytest.raises(InputError, match=r"cannot be extracted again for 2026-01-02: the database has no past states"):
        extract(shop, PRODUCTS, D[:2], rebuild=True, now=NOW)
    database.execute("insert into shop.products values (2, 30)")
    extract(shop, PRODUCTS, [D[4]], now=NOW + timedelta(days=1))
    ingest(shop, PRODUCTS)
    require_delivered(shop, PRODUCTS, [D[3]])
    with pytest.raises(InputError) as refused:
        require_delivered(shop, PRODUCTS, [D[4]])
    assert str(refused.value) == (
        f"The landing file '{D[4]}.parquet' of source 'products' is in quarantine: it has the key product_id 2 in "
        f"lines 2 and 3. Correct the database, and extract it again: `forecache ingest --date {D[4]} --rebuild`."
    )
    database.execute("delete from shop.products where price = 20.25")
    extract(shop, PRODUCTS, [D[4]], rebuild=True, now=NOW + timedelta(days=1))
    ingest(shop, PRODUCTS, correctable=[D[4]])
    require_delivered(shop, PRODUCTS, [D[4]])


def test_rows_without_time_are_extracted_once(shop: Settings, database: Any) -> None:
    static = dataclasses.replace(PRODUCTS, name="regions", time=Static())
    assert extract(shop, static, D, now=NOW).nights == (D[3],)
    later = NOW + timedelta(days=2)
    assert extract(shop, static, D, now=later).skipped
    assert extract(shop, static, D, now=later, rebuild=True).nights == (D[5],)


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({}, SettingsError, "Source 'sales' queries the database 'shop', which FORECACHE_DATABASES does not have. Set"),
        ({"shop": "no url"}, SettingsError, "has no URL that can be read; it is not shown. Write it like postgresql:/"),
        (
            {"shop": f"nosuchdb://me:{PASSWORD}@h/db"},
            UnavailableError,
            "needs a driver for nosuchdb. Install forecache",
        ),
        (
            {"shop": f"postgresql://shop:{PASSWORD}@127.0.0.1:1/db"},
            UnavailableError,
            "The database 'shop' of source 'sales' does not answer: connection failed",
        ),
    ],
)
def test_database_that_is_not_there_is_said_without_its_password(
    settings: Settings, given: dict[str, str], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as refused:
        extract(settings.model_copy(update={"databases": given}), SALES, [D[0]], now=NOW)
    assert sentence in str(refused.value)
    assert PASSWORD not in str(refused.value)
    assert landed(settings, SALES) == []


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            Query("shop", table="shop.nothing"),
            "refuses the query of source 'sales': relation \"shop.nothing\" does not",
        ),
        (
            Query("shop", sql="select * from shop.sales s, shop.sales t where s.sold_at between :start and :end"),
            "The query of source 'sales' returns the column 'amount' 2 times. Name the columns that it selects.",
        ),
        (Query("shop", sql="selec :start, :end"), "refuses the query of source 'sales': syntax error at or near"),
        (
            Query("shop", sql="select sale_id from shop.sales where sold_at >= :start and sold_at < :end"),
            "The query of source 'sales' returns no column 'amount'. It returns sale_id: name its columns as they are",
        ),
        (
            Query("shop", sql="delete from shop.sales where sold_at >= :start and sold_at < :end returning *"),
            "refuses the query of source 'sales'",
        ),
    ],
)
def test_query_that_the_database_refuses_leaves_no_file(
    shop: Settings, database: Any, asked: Query, sentence: str
) -> None:
    with pytest.raises(InputError) as refused:
        extract(shop, dataclasses.replace(SALES, extract=asked), [D[0]], now=NOW)
    assert sentence in str(refused.value)
    assert landed(shop, SALES) == []
    assert database.execute("select count(*) from shop.sales").fetchone() == (6,)
    assert extract(shop, SALES, [D[0]], now=NOW).nights == (D[0],)


def test_wrong_password_and_password_elsewhere_are_not_shown(shop: Settings, spark: Any, database: Any) -> None:
    from forecache.cli.commands.settings import setting_rows

    wrong = shop.model_copy(update={"databases": {"shop": shop.databases["shop"].replace(PASSWORD, "wr0ng-" * 3)}})
    with pytest.raises(UnavailableError, match="password authentication failed") as refused:
        extract(wrong, SALES, [D[0]], now=NOW)
    assert "wr0ng" not in str(refused.value)
    result = extract(shop, SALES, [D[0]], now=NOW)
    ingest(shop, SALES)
    assert PASSWORD not in repr(result) + repr(shop) + json.dumps(setting_rows(shop), default=str)
    for path in Path(shop.home_path).rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


def in_process(settings: Settings, *arguments: str) -> "subprocess.Popen[str]":
    environment = {
        **os.environ,
        "FORECACHE_HOME": str(settings.home_path),
        "FORECACHE_DATABASES": json.dumps(settings.databases),
    }
    command = [sys.executable, str(SUPPORT / "extract_job.py"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.faults
@pytest.mark.parametrize("step", ["batch extracted", "file landed"])
def test_extraction_that_is_killed_leaves_no_half_file_and_goes_on(shop: Settings, database: Any, step: str) -> None:
    killed = in_process(shop, "kill", step)
    _, errors = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, errors
    numbers = Source("numbers", (Column("n", "bigint"), Column("at", "timestamp")), "at", start=D[0])
    for name in landed(shop, numbers):
        assert pq.read_table(Path(shop.landing_uri) / "numbers" / name).num_rows == 50_000
    assert landed(shop, numbers) == ([f"{D[0]}.parquet"] if step == "file landed" else [])
    again = in_process(shop, "extract")
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert json.loads(output) == [str(D[0]), str(D[1])][step == "file landed" :]
    for day in D[:2]:
        found = pq.read_table(Path(shop.landing_uri) / "numbers" / f"{day}.parquet")
        assert found["n"].to_pylist() == [str(n) for n in range(50_000)]
    assert not (shop.home_path / "extract" / "numbers").exists()


@pytest.mark.faults
def test_two_extractions_at_once_make_one_file_of_each_day(shop: Settings, database: Any) -> None:
    both = [in_process(shop, "extract") for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    days = sorted(day for output, _ in outputs for day in json.loads(output))
    assert days == [str(D[0]), str(D[1])]
    for day in D[:2]:
        found = pq.read_table(Path(shop.landing_uri) / "numbers" / f"{day}.parquet")
        assert found["n"].to_pylist() == [str(n) for n in range(50_000)]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_answer(shop: Settings, database: Any) -> None:
    """Rows of 1 kB, 40 MB and 400 MB of them."""
    peaks = []
    for rows in ("40000", "400000"):
        process = in_process(shop, "memory", rows)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        peaks.append(json.loads(output))
    assert peaks[1] < peaks[0] + 60, f"peaks of {peaks} MB"


@pytest.mark.slow
def test_file_lands_in_an_object_store_in_one_put(shop: Settings, database: Any, tmp_path: Path) -> None:
    with minio_server(tmp_path / "minio", "cloud") as options:
        cloud = shop.model_copy(update={"storage_options": options, "landing": "s3://cloud/landing"})
        assert extract(cloud, SALES, D, now=NOW).rows == 5
        assert landed(cloud, SALES) == [f"{day}.parquet" for day in D[:4]]
        assert extract(cloud, SALES, D, now=NOW).skipped


@pytest.mark.slow
def test_ingest_job_extracts_the_days_that_are_over_and_on_request_again(
    tmp_path: Path, url: str, database: Any, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through Dagster, as `forecache ingest` does it."""
    from jobs.runner import run

    monkeypatch.syspath_prepend(str(SUPPORT))
    settings = load_settings(home=tmp_path / "home", project="database_project", databases={"shop": url})
    today = datetime.now(timezone.utc).date()
    days = [today - timedelta(days=number) for number in (3, 2, 1, 0)]
    database.execute("truncate shop.sales")
    for number, day in enumerate(days):
        database.execute("insert into shop.sales values (%s, 1, 5, false, null, %s)", (number, f"{day} 12:00:00+00"))
    results = run(settings, pipelines=["spent"], job="ingest")
    assert [(result.stage, result.rows) for result in results] == [("extract", 3), ("ingest", 3)]
    assert sorted(open_table(settings, "raw_sales").to_pyarrow_table()["sale_id"].to_pylist()) == [0, 1, 2]
    again = run(settings, pipelines=["spent"], job="ingest")
    assert all(result.skipped for result in again)
    database.execute("update shop.sales set amount = 9 where sale_id = 2")
    run(settings, pipelines=["spent"], nights=(days[2], days[2]), job="ingest", rebuild=True)
    amounts = query(settings, "select amount from raw_sales order by sale_id")["amount"].to_pylist()
    assert amounts == [5.0, 5.0, 9.0]
    assert len(ingested_files(settings, dataclasses.replace(SALES, start=days[0]))) == 3
