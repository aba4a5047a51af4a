"""Existing Delta and Parquet tables as sources: point in time, pinned, checked, and never written to."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from store_services import minio_server

from forecache.base.errors import InputError, NotYetError, UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Column, Snapshot, Source, Static, TableSource
from forecache.kit.delta.writers import write_frame
from forecache.lake.sources import Pins, horizon_rows, known_rows, require_delivered, source_state
from forecache.plugins.table_sources import delta_table as delta_source

D = [date(2026, 1, 1) + timedelta(days=number) for number in range(8)]
PRICES = (Column("product_id", "int"), Column("price", "double"))
DATED = (*PRICES, Column("day", "date"))


def prices(*rows: tuple[int, float], day: date | None = None) -> pa.Table:
    ids, values = zip(*rows, strict=True) if rows else ((), ())
    found = {"product_id": pa.array(ids, pa.int32()), "price": pa.array(values, pa.float64())}
    if day is not None:
        found["day"] = pa.array([day] * len(rows), pa.date32())
    return pa.table(found)


def commit_at(uri: str, *days: date) -> None:
    """Let the versions of a table have been committed at noon of these days."""
    for version, day in enumerate(days):
        entry = Path(uri) / "_delta_log" / f"{version:020d}.json"
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        at = int(datetime(day.year, day.month, day.day, 12, tzinfo=timezone.utc).timestamp() * 1000)
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] = at
        entry.write_text("\n".join(map(json.dumps, actions)))


def rows_of(frame: Any) -> dict[date, list[tuple[Any, ...]]]:
    found: dict[date, list[tuple[Any, ...]]] = {}
    for row in frame.collect():
        found.setdefault(row.as_of, []).append((row.product_id, row.price))
    return {night: sorted(rows) for night, rows in sorted(found.items())}


def known(spark: Any, settings: Settings, source: TableSource, *nights: date, pins: Pins | None = None) -> Any:
    return rows_of(known_rows(spark, settings, [source], nights, pins=pins)[source.name])


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "elsewhere" / "products")


@pytest.fixture
def by_version(uri: str) -> TableSource:
    """Three versions: of the 2nd, of the 2nd again, and of the 4th."""
    for rows in ([(1, 10.0), (2, 20.0)], [(1, 11.0), (2, 20.0)], [(1, 12.0), (3, 30.0)]):
        write_deltalake(uri, prices(*rows), mode="overwrite")
    commit_at(uri, D[1], D[1], D[3])
    return TableSource("products", uri, PRICES, time=Snapshot(), key=("product_id",), start=D[0], missing="last")


@pytest.fixture
def by_day(uri: str) -> TableSource:
    for day, row in ((D[1], (1, 10.0)), (D[3], (1, 12.0))):
        write_deltalake(uri, prices(row, (2, 20.0), day=day), mode="append", partition_by=["day"])
    return TableSource("products", uri, DATED, time=Snapshot(day="day"), key=("product_id",), start=D[0])


def test_version_committed_before_the_nights_end_is_its_state(
    settings: Settings, spark: Any, by_version: TableSource
) -> None:
    second, fourth = [(1, 11.0), (2, 20.0)], [(1, 12.0), (3, 30.0)]
    assert known(spark, settings, by_version, *D[:5]) == {D[1]: second, D[2]: second, D[3]: fourth, D[4]: fourth}
    later = horizon_rows(spark, settings, [by_version], [D[0], D[1]], 2)["products"]
    seen = {(row.as_of, row.event_day, row.product_id) for row in later.collect()}
    assert seen == {(D[0], D[1], 1), (D[0], D[1], 2), (D[1], D[3], 1), (D[1], D[3], 3)}
    before = source_state(settings, by_version, D)
    assert len(set(before.values())) == 3
    write_deltalake(by_version.uri, prices((9, 9.0)), mode="overwrite")
    commit_at(by_version.uri, D[1], D[1], D[3], D[5])
    after = source_state(settings, by_version, D)
    assert [before[day] != after[day] for day in D] == [False] * 5 + [True] * 3


def test_pinned_version_is_read_although_the_table_moves_meanwhile(
    settings: Settings, spark: Any, by_day: TableSource
) -> None:
    pins = Pins(settings)
    state = source_state(settings, by_day, D, pins=pins)
    assert pins.details([by_day]) == {"pinned": {"products": {"uri": by_day.uri, "version": 1}}}
    write_deltalake(by_day.uri, prices((7, 7.0), day=D[4]), mode="append", partition_by=["day"])
    DeltaTable(by_day.uri).delete("day = '2026-01-02'")
    old = [(1, 10.0), (2, 20.0)]
    assert known(spark, settings, by_day, D[2], D[4], pins=pins) == {D[2]: old, D[4]: [(1, 12.0), (2, 20.0)]}
    assert source_state(settings, by_day, D, pins=pins) == state
    assert known(spark, settings, by_day, D[2], D[4]) == {D[4]: [(7, 7.0)]}


def test_new_day_changes_no_earlier_night(settings: Settings, spark: Any, by_day: TableSource) -> None:
    before = source_state(settings, by_day, D)
    write_deltalake(by_day.uri, prices((1, 13.0), day=D[5]), mode="append", partition_by=["day"])
    after = source_state(settings, by_day, D)
    assert [before[day] != after[day] for day in D] == [False] * 5 + [True] * 3


@pytest.mark.parametrize("partitioned", [True, False])
def test_events_are_cut_at_the_night_and_a_late_file_changes_the_nights_after_it(
    settings: Settings, spark: Any, uri: str, partitioned: bool
) -> None:
    by = ["day"] if partitioned else None
    for day in D[:4]:
        write_deltalake(uri, prices((1, float(day.day)), day=day), mode="append", partition_by=by)
    events = TableSource("sales", uri, DATED, "day", start=D[0])
    assert known(spark, settings, events, D[0], D[2]) == {D[0]: [(1, 1.0)], D[2]: [(1, 1.0), (1, 2.0), (1, 3.0)]}
    later = rows_of(horizon_rows(spark, settings, [events], [D[0], D[2]], 2)["sales"])
    assert later == {D[0]: [(1, 2.0), (1, 3.0)], D[2]: [(1, 4.0)]}
    before = source_state(settings, events, D)
    write_deltalake(uri, prices((2, 5.0), day=D[2]), mode="append", partition_by=by)
    after = source_state(settings, events, D)
    assert [before[day] != after[day] for day in D] == [False] * 2 + [True] * 6
    require_delivered(settings, events, D[:4])
    with pytest.raises(
        InputError, match=f"As-of date {D[4]} is empty: for source 'sales' {uri} has no row of that day"
    ):
        require_delivered(settings, events, D[:5])


def test_rows_without_time_are_the_newest_version_for_every_date(settings: Settings, spark: Any, uri: str) -> None:
    write_deltalake(uri, prices((1, 10.0)))
    regions = TableSource("regions", uri, PRICES, time=Static(), start=D[0])
    assert known(spark, settings, regions, D[0], D[5]) == {D[0]: [(1, 10.0)], D[5]: [(1, 10.0)]}
    before = source_state(settings, regions, D)
    write_deltalake(uri, prices((2, 20.0)), mode="append")
    after = source_state(settings, regions, D)
    assert all(before[day] != after[day] for day in D)


def test_rows_deleted_by_a_deletion_vector_change_the_state(settings: Settings, spark: Any, uri: str) -> None:
    options = "tblproperties('delta.enableDeletionVectors' = 'true')"
    spark.sql(f"create table delta.`{uri}` (product_id int, price double, day date) using delta {options}")
    day = f"date'{D[1]}'"
    spark.sql(f"insert into delta.`{uri}` select cast(id as int), 1.0D, {day} from range(0, 20, 1, 1)")
    source = TableSource("products", uri, DATED, time=Snapshot(day="day"), key=("product_id",), start=D[0])
    before, files = source_state(settings, source, [D[1]]), DeltaTable(uri).file_uris()
    spark.sql(f"delete from delta.`{uri}` where product_id > 0")
    assert DeltaTable(uri).file_uris() == files, "the test is about a deletion that leaves the files"
    assert source_state(settings, source, [D[1]]) != before
    assert known(spark, settings, source, D[1]) == {D[1]: [(0, 1.0)]}


@pytest.mark.parametrize("partitioned", [True, False])
def test_parquet_folder_is_read_by_its_files(settings: Settings, spark: Any, tmp_path: Path, partitioned: bool) -> None:
    root = tmp_path / "parquet"
    for day, price in ((D[1], 10.0), (D[3], 12.0)):
        folder = root / f"day={day}" if partitioned else root
        folder.mkdir(parents=True) if partitioned else folder.mkdir(exist_ok=True)
        pq.write_table(prices((1, price), day=None if partitioned else day), folder / f"{day}.parquet")
    (root / "_SUCCESS").touch()
    (root / ".half.parquet").write_text("x")
    source = TableSource(
        "products", str(root), DATED, format="parquet", time=Snapshot(day="day"), key=("product_id",), start=D[0]
    )
    assert known(spark, settings, source, *D[:5]) == {
        D[1]: [(1, 10.0)], D[2]: [(1, 10.0)], D[3]: [(1, 12.0)], D[4]: [(1, 12.0)],
    }  # fmt: skip
    pins = Pins(settings)
    before = source_state(settings, source, D, pins=pins)
    pq.write_table(prices((5, 5.0), day=D[3]).select(["product_id", "price", *([] if partitioned else ["day"])]),
                   (root / f"day={D[3]}" if partitioned else root) / "more.parquet")  # fmt: skip
    assert known(spark, settings, source, D[3], pins=pins) == {D[3]: [(1, 12.0)]}
    assert known(spark, settings, source, D[3]) == {D[3]: [(1, 12.0), (5, 5.0)]}
    after = source_state(settings, source, D)
    assert [before[day] != after[day] for day in D] == [False] * 3 + [True] * 5


def test_columns_of_parquet_have_any_type_that_the_declared_one_holds(
    settings: Settings, spark: Any, tmp_path: Path
) -> None:
    last = datetime(2026, 1, 1, 23, 59, 59, 999999)
    found: list[tuple[str, Any, pa.Array]] = [
        ("amount", 1.25, pa.array([Decimal("1.25")], pa.decimal128(10, 2))),
        ("number", 125, pa.array([Decimal(125)], pa.decimal128(18, 0))),
        ("small", 7, pa.array([7], pa.int16())),
        ("share", 1.5, pa.array([1.5], pa.float32())),
        ("name", "a", pa.array(["a"]).dictionary_encode()),
        ("before", datetime(1900, 1, 1), pa.array([datetime(1900, 1, 1)], pa.timestamp("ns"))),
        ("sold_at", last, pa.array([last], pa.timestamp("ns", "UTC"))),
    ]
    kinds = ("double", "bigint", "bigint", "double", "string", "timestamp", "timestamp")
    columns = tuple(Column(name, kind) for (name, _, _), kind in zip(found, kinds, strict=True))  # type: ignore[arg-type]
    pq.write_table(pa.table({name: values for name, _, values in found}), tmp_path / "a b.parquet")
    source = TableSource("sales", str(tmp_path), columns, "sold_at", format="parquet", start=D[0])
    [row] = known_rows(spark, settings, [source], [D[0]])["sales"].collect()
    assert row.asDict() == {name: value for name, value, _ in found} | {"event_day": D[0], "as_of": D[0]}

    pins = Pins(settings)
    pins.pin(source)
    (tmp_path / "a b.parquet").rename(tmp_path / "b.parquet")
    with pytest.raises(UnavailableError, match=f"a file went from {tmp_path} meanwhile. Run again"):
        known_rows(spark, settings, [source], [D[0]], pins=pins)
    pq.write_table(pa.table({name: values for name, _, values in found}).set_column(0, "amount", pa.array([1.0])),
                   tmp_path / "c.parquet")  # fmt: skip
    assert "the column 'amount' is decimal128(10, 2) or double. Write all" in refused(settings, spark, source)
    (tmp_path / "c.parquet").rename(tmp_path / "c[1].parquet")
    assert f"there is a file 'c[1].parquet' in {tmp_path}. Rename it: Spark takes" in refused(settings, spark, source)


def refused(settings: Settings, spark: Any, source: TableSource, night: date = D[3]) -> str:
    with pytest.raises(InputError) as error:
        known_rows(spark, settings, [source], [night])
    return str(error.value)


def test_key_twice_in_a_state_is_refused_with_key_and_version(settings: Settings, spark: Any, uri: str) -> None:
    write_deltalake(uri, prices((1, 10.0), (2, 20.0), (2, 21.0)))
    commit_at(uri, D[1])
    source = TableSource("products", uri, PRICES, time=Snapshot(), key=("product_id",), start=D[0], missing="last")
    assert refused(settings, spark, source) == (
        f"Source 'products' has the key product_id 2 in 2 rows of version 0 in {uri}. A state has one row for each "
        "key, and no null in it: mend the table, or declare the whole key."
    )
    static = dataclasses.replace(source, time=Static(), missing="fail")
    assert "has the key product_id 2 in 2 rows of it in" in refused(settings, spark, static)


def test_schema_that_moved_is_refused_with_column_and_types(
    settings: Settings, spark: Any, by_version: TableSource, tmp_path: Path
) -> None:
    uri = by_version.uri
    more = dataclasses.replace(by_version, columns=(*PRICES, Column("stock", "int")))
    assert refused(settings, spark, more) == (
        f"Source 'products' cannot be read: version 2 of {uri} has no column 'stock'. Declare the columns that it has "
        "(product_id, price), or mend the table."
    )
    text = dataclasses.replace(by_version, columns=(Column("product_id", "string"), PRICES[1]))
    assert refused(settings, spark, text) == (
        f"Source 'products' cannot be read: in version 2 of {uri} the column 'product_id' is a integer, and it is "
        "declared as a string. Declare the type that the table has, or mend the table."
    )
    write_deltalake(uri, pa.table({"product_id": ["1"], "price": [1.0]}), mode="overwrite", schema_mode="overwrite")
    commit_at(uri, D[1], D[1], D[3], D[5])
    assert "in version 3 of" in refused(settings, spark, by_version)
    write_deltalake(uri, prices((1, 1.0)), mode="overwrite", schema_mode="overwrite")
    commit_at(uri, D[1], D[1], D[3], D[5], D[6])
    assert known(spark, settings, by_version, D[3]) == {D[3]: [(1, 12.0), (3, 30.0)]}
    assert "in version 3 of" in refused(settings, spark, by_version, D[5])

    folder = tmp_path / "parquet"
    folder.mkdir()
    pq.write_table(pa.table({"product_id": [1.5], "price": [1.0], "day": [D[0]]}), folder / "a.parquet")
    files = TableSource("files", str(folder), DATED, "day", format="parquet", start=D[0])
    assert f"in a.parquet in {folder} the column 'product_id' is a double" in refused(settings, spark, files)


def test_table_that_is_not_there_is_refused(settings: Settings, spark: Any, by_version: TableSource) -> None:
    nowhere = dataclasses.replace(by_version, uri="/no/such/table")
    assert refused(settings, spark, nowhere) == (
        "Source 'products' cannot be read: there is no Delta table in /no/such/table. Correct its `uri` or `format`."
    )
    files = TableSource("files", "/no/such/table", DATED, "day", format="parquet", start=D[0])
    assert "there is no Parquet file in /no/such/table" in refused(settings, spark, files)
    assert f'{by_version.uri} is a Delta table. Declare format="delta"' in refused(
        settings, spark, dataclasses.replace(files, uri=by_version.uri)
    )


def test_version_that_a_vacuum_took_is_refused(settings: Settings, spark: Any, by_version: TableSource) -> None:
    DeltaTable(by_version.uri).vacuum(0, dry_run=False, enforce_retention_duration=False)
    commit_at(by_version.uri, D[1], D[1], D[3])
    assert known(spark, settings, by_version, D[5]) == {D[5]: [(1, 12.0), (3, 30.0)]}
    assert refused(settings, spark, by_version, D[2]) == (
        f"Source 'products' cannot be read: of version 1 of {by_version.uri} 1 files were removed by a vacuum. Score "
        "later dates, keep files longer, or keep all states in the table: Snapshot(day=...)."
    )


def test_file_that_a_table_names_and_has_not_is_said_in_a_sentence(
    settings: Settings, spark: Any, by_day: TableSource
) -> None:
    for file in (Path(by_day.uri) / f"day={D[1]}").iterdir():
        file.unlink()
    with pytest.raises(UnavailableError, match=rf"A file went while it was being read: file:\S+day={D[1]}/\S+.parquet"):
        known_rows(spark, settings, [by_day], [D[2]])
    frame = known_rows(spark, settings, [dataclasses.replace(by_day, time=Static(), key=())], [D[2]])["products"]
    with pytest.raises(UnavailableError, match="A file went while it was being read"):
        write_frame(frame, settings, "features_x")


def test_upkeep_of_a_table_is_no_state_and_no_delivery(settings: Settings, spark: Any, by_version: TableSource) -> None:
    uri = by_version.uri
    write_deltalake(uri, prices((4, 40.0)), mode="append")
    commit_at(uri, D[1], D[1], D[3], D[4])
    before, rows = source_state(settings, by_version, D), known(spark, settings, by_version, *D[3:7])
    DeltaTable(uri).optimize.compact()
    commit_at(uri, D[1], D[1], D[3], D[4], D[5])
    assert DeltaTable(uri).version() == 4
    assert source_state(settings, by_version, D) == before
    assert known(spark, settings, by_version, *D[3:7]) == rows
    with pytest.raises(NotYetError, match=f"As-of date {D[5]} waits"):
        require_delivered(settings, dataclasses.replace(by_version, missing="wait"), [D[4], D[5]])
    # The files that it replaced are not needed any more.
    DeltaTable(uri).vacuum(0, dry_run=False, enforce_retention_duration=False)
    commit_at(uri, D[1], D[1], D[3], D[4], D[5])
    assert known(spark, settings, by_version, D[6]) == {D[6]: rows[D[6]]}
    assert source_state(settings, by_version, D) == before


def test_versions_are_told_by_their_entries_in_the_log(
    settings: Settings, by_version: TableSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a commit says nothing of itself, and where others commit while the table is looked at."""
    entry = Path(by_version.uri) / "_delta_log" / f"{1:020d}.json"
    lines = [line for line in entry.read_text().splitlines() if "commitInfo" not in line]
    at = datetime(2026, 1, 2, 9, tzinfo=timezone.utc).timestamp()
    for told in ([], ['{"commitInfo": {}}'], ['{"commitInfo": {"operation": "WRITE"}}']):
        entry.write_text("\n".join([*lines, *told]))
        os.utime(entry, (at, at))
        assert [Pins(settings).pin(by_version).version_of(night) for night in D[:5]] == [None, 1, 1, 2, 2]
    require_columns = delta_source.require_source_columns

    def meanwhile(*about: Any, **where: Any) -> None:
        write_deltalake(by_version.uri, prices((7, 7.0)), mode="overwrite")
        require_columns(*about, **where)

    monkeypatch.setattr(delta_source, "require_source_columns", meanwhile)
    pinned = Pins(settings).pin(by_version)
    assert (pinned.version, [version for version, _ in pinned.commits]) == (2, [0, 1, 2])


def test_night_without_a_version_of_its_day_fails_waits_or_goes_on(settings: Settings, by_version: TableSource) -> None:
    require_delivered(settings, by_version, [D[1], D[2], D[7]])
    with pytest.raises(InputError) as error:
        require_delivered(settings, by_version, [D[0]])
    assert str(error.value) == (
        f"As-of date {D[0]} is empty: for source 'products' no version of {by_version.uri} was committed that day. Run "
        f"a later date: {by_version.uri} has none before it either."
    )
    with pytest.raises(InputError, match='missing="last" goes on with what was there before'):
        require_delivered(settings, dataclasses.replace(by_version, missing="fail"), [D[1], D[2]])
    with pytest.raises(NotYetError, match=f"As-of date {D[2]} waits for source 'products': no version of"):
        require_delivered(settings, dataclasses.replace(by_version, missing="wait"), [D[2]])


def test_columns_of_an_existing_table_are_features_as_they_are(
    settings: Settings, spark: Any, by_version: TableSource
) -> None:
    from table_project import spending

    from forecache.lake.features import build_features, stale_nights
    from forecache.lake.ledger import last_records
    from forecache.lake.query import query
    from forecache.lake.training_set import build_training_set

    pipeline = dataclasses.replace(spending, sources=(by_version,))
    result = build_features(settings, pipeline, [D[2], D[4]])
    assert (result.rows, result.details["built"]) == (4, [str(D[2]), str(D[4])])
    rows = query(settings, "select * from features_spending order by as_of, product_id")
    assert rows.schema.field("price").type == pa.float32()
    assert [tuple(row.values()) for row in rows.to_pylist()] == [
        (1, D[2], 11.0), (2, D[2], 20.0), (1, D[4], 12.0), (3, D[4], 30.0),
    ]  # fmt: skip
    record = last_records(settings, "features", "spending")[D[4]]
    assert record.details["pinned"] == {"products": {"uri": by_version.uri, "version": 2}}
    assert build_features(settings, pipeline, [D[2], D[4]]).skipped
    write_deltalake(by_version.uri, prices((1, 5.0)), mode="overwrite")
    commit_at(by_version.uri, D[1], D[1], D[3], D[4])
    assert stale_nights(settings, pipeline.views[0]) == (D[4],)
    learned = build_training_set(settings, pipeline, D[5])
    assert learned.details["pinned"]["products"]["version"] == 3
    assert build_training_set(settings, pipeline, D[5]).skipped
    # Another state of the training date's day: the night itself sees the same as before.
    commit_at(by_version.uri, D[1], D[3], D[3], D[4])
    again = build_training_set(settings, pipeline, D[5])
    assert not again.skipped
    train = query(settings, "select price from training_set_spending where split = 'train' order by price")
    assert train["price"].to_pylist() == [10.0, 20.0]


def test_chain_of_an_answer_names_the_state_of_an_existing_table_that_was_read(
    settings: Settings, by_version: TableSource
) -> None:
    from forecache.plugins.explain.trace import _source_link

    made = {"inputs": "", "pinned": {"products": {"uri": by_version.uri, "version": 2}}}
    assert _source_link(settings, by_version, made, {"product_id": 1}, D[4]) == {
        "table": by_version.uri,
        "delta_version": 2,
        "missing": "an existing table, whose rows are not looked up here",
    }
    landed = Source("regions", (Column("region", "string"),), time=Static(), start=D[0])
    link = _source_link(settings, landed, {"inputs": "raw_regions@3 code=x"}, {"product_id": 1}, D[4])
    assert (link["delta_version"], link["missing"]) == (3, "its rows are not of the pipeline's key")


def test_maintenance_leaves_an_existing_table_in_the_lakes_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.plugins.maintenance.lake import foreign_tables, maintain_lake

    package = tmp_path / "reads_tables" / "pipelines"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    shared = Path(__file__).parents[1] / "support" / "table_project.py"
    shutil.copy(shared, package / "spending.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = load_settings(home=tmp_path / "home", project="reads_tables")
    uri = settings.table_uri("products")
    monkeypatch.setenv("TABLE_PROJECT_URI", uri)
    for price in (1.0, 2.0):
        write_deltalake(uri, prices((1, price)), mode="append")
    assert foreign_tables(settings) == {"products": "products"}
    assert maintain_lake(settings) == []
    with pytest.raises(InputError, match="The table 'products' is read by source 'products', and others write it"):
        maintain_lake(settings, ["products"])
    assert len(DeltaTable(uri).file_uris()) == 2


@pytest.mark.slow
def test_table_on_an_object_store_is_read_with_the_lakes_options(tmp_path: Path) -> None:
    """In a process of its own: Spark is told of the object store as it starts."""
    with minio_server(tmp_path / "minio", "cloud") as options:
        write_deltalake(
            "s3://cloud/products", prices((1, 10.0), day=D[1]), storage_options=options, partition_by=["day"]
        )
        read = subprocess.run(
            [sys.executable, str(Path(__file__).parents[1] / "support" / "read_s3_table.py")],
            env={**os.environ, "FORECACHE_HOME": str(tmp_path / "home"),
                 "FORECACHE_STORAGE_OPTIONS": json.dumps(options), "FORECACHE_SPARK_MASTER": "local[1]",
                 "FORECACHE_SPARK_DRIVER_MEMORY": "1g"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert read.returncode == 0, read.stderr[-3000:]
        assert json.loads(read.stdout.splitlines()[-1]) == [[1, 10.0, "2026-01-03"]]
        unreachable = load_settings(
            home=tmp_path / "home", storage_options={**options, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
        )
        source = TableSource("products", "s3://cloud/products", PRICES, time=Static(), start=D[0])
        with pytest.raises(UnavailableError, match="cannot be read: s3://cloud/products does not open"):
            source_state(unreachable, source, [D[1]])
