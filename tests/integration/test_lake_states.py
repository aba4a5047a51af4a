"""Landed snapshots and rows without time, point in time, and what a night does whose delivery is missing."""

import dataclasses
import os
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forecache.base.errors import InputError, NotYetError
from forecache.base.settings import Settings
from forecache.declare import Column, Snapshot, Source, Static
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ingest.ingested_files import ingested_files
from forecache.lake.quality.raw_days import reconcile
from forecache.lake.query import query
from forecache.lake.sources import horizon_rows, known_rows, require_delivered, source_state

D = [date(2026, 1, 1) + timedelta(days=number) for number in range(8)]
PRODUCTS = Source(
    "products",
    columns=(Column("product_id", "int"), Column("price", "double", required=False, minimum=0)),
    time=Snapshot(),
    key=("product_id",),
    start=D[0],
)
REGIONS = dataclasses.replace(PRODUCTS, name="regions", time=Static())
ORDERS = Source("orders", (Column("product_id", "int"), Column("day", "date")), "day", start=D[0])


def land(settings: Settings, source: Source, name: str, *rows: str, written: int = 0) -> None:
    folder = Path(settings.landing_uri) / source.name
    folder.mkdir(parents=True, exist_ok=True)
    header = ",".join(column.name for column in source.columns)
    (folder / name).write_text("\n".join([header, *rows, ""]))
    at = datetime(2026, 2, 1, tzinfo=timezone.utc).timestamp() + written
    os.utime(folder / name, (at, at))


def known(spark: Any, settings: Settings, source: Source, *nights: date) -> dict[date, list[tuple[Any, ...]]]:
    frame = known_rows(spark, settings, [source], nights)[source.name]
    assert frame.columns[-1] == "as_of"
    found: dict[date, list[tuple[Any, ...]]] = {night: [] for night in nights}
    for row in frame.collect():
        found[row.as_of].append((row.product_id, row.price))
    return {night: sorted(rows) for night, rows in found.items()}


def test_as_of_a_date_counts_the_last_state_up_to_it(settings: Settings, spark: Any) -> None:
    land(settings, PRODUCTS, f"{D[1]}.csv", "1,10", "2,20")
    land(settings, PRODUCTS, f"{D[3]}.csv", "1,11", "3,30")
    ingest(settings, PRODUCTS)
    old, new = [(1, 10.0), (2, 20.0)], [(1, 11.0), (3, 30.0)]
    found = known(spark, settings, PRODUCTS, *D[:5])
    assert found == {D[0]: [], D[1]: old, D[2]: old, D[3]: new, D[4]: new}
    later = horizon_rows(spark, settings, [PRODUCTS], [D[0], D[1]], 2)["products"]
    seen = sorted((row.as_of, row.event_day, row.product_id) for row in later.collect())
    assert seen == [(D[0], D[1], 1), (D[0], D[1], 2), (D[1], D[3], 1), (D[1], D[3], 3)]


def test_of_several_files_of_a_day_the_one_ingested_last_counts(settings: Settings, spark: Any) -> None:
    land(settings, PRODUCTS, f"{D[1]}.csv", "1,10", "2,20")
    ingest(settings, PRODUCTS)
    before = source_state(settings, PRODUCTS, D[:3])
    land(settings, PRODUCTS, f"{D[1]}.2.csv", "1,15", written=-60)  # a copy that kept its time
    ingest(settings, PRODUCTS)
    assert known(spark, settings, PRODUCTS, D[2]) == {D[2]: [(1, 15.0)]}
    after = source_state(settings, PRODUCTS, D[:3])
    assert [after[day] != before[day] for day in D[:3]] == [False, True, True]


def test_figures_of_a_night_depend_on_every_state_that_its_labels_have(settings: Settings, spark: Any) -> None:
    from table_project import spending

    from forecache.lake.ledger import StageRecord
    from forecache.plugins.drift import monitor as stage

    label = dataclasses.replace(spending.label, horizon_days=2)
    pipeline = dataclasses.replace(spending, sources=(PRODUCTS,), label=label)
    read = {"feature_table": "features_spending", "feature_version": 0}
    scored = {day: StageRecord("score", "spending", day, "", "predictions", 0, 1, 0.0, read) for day in D}
    run = stage._MonitoringRun(settings, pipeline, SimpleNamespace(version=1), {}, scored, "")  # type: ignore[arg-type]
    for day in (D[1], D[4]):
        land(settings, PRODUCTS, f"{day}.csv", "1,10")
    ingest(settings, PRODUCTS)
    before = stage._inputs(run, D[4:6])
    land(settings, PRODUCTS, f"{D[3]}.csv", "1,99")
    ingest(settings, PRODUCTS)
    after = stage._inputs(run, D[4:6])
    assert [after[night] != before[night] for night in D[4:6]] == [True, False]


def test_snapshot_with_a_key_twice_is_quarantined_whole_and_names_key_and_file(settings: Settings, spark: Any) -> None:
    land(settings, PRODUCTS, f"{D[0]}.csv", "1,10")
    land(settings, PRODUCTS, f"{D[1]}.csv", "1,11", "2,20", "x,5", "2,21")
    ingest(settings, PRODUCTS)
    [file] = [file for file in ingested_files(settings, PRODUCTS) if file.event_day == D[1]]
    assert (file.error, file.landing_rows, file.raw_rows, file.quarantined_rows) == (
        "it has the key product_id 2 in lines 3 and 5", 0, 0, 0,
    )  # fmt: skip
    assert reconcile(settings, PRODUCTS, D[:2])[D[1]].success
    with pytest.raises(InputError) as refused:
        require_delivered(settings, PRODUCTS, [D[1]])
    assert str(refused.value) == (
        f"The landing file '{D[1]}.csv' of source 'products' is in quarantine: it has the key product_id 2 in lines "
        f"3 and 5. Land a corrected file for {D[1]} under a new name and run again."
    )
    assert known(spark, settings, PRODUCTS, D[1]) == {D[1]: [(1, 10.0)]}
    land(settings, PRODUCTS, f"{D[1]}.2.csv", "1,11", "2,21", written=60)
    ingest(settings, PRODUCTS)
    require_delivered(settings, PRODUCTS, [D[1]])
    assert known(spark, settings, PRODUCTS, D[1]) == {D[1]: [(1, 11.0), (2, 21.0)]}
    whole = query(settings, "select source_line, reason from quarantine_products").to_pylist()
    assert whole == [{"source_line": 0, "reason": "it has the key product_id 2 in lines 3 and 5"}]


def test_snapshot_without_a_good_row_is_quarantined_whole_and_the_state_before_counts(
    settings: Settings, spark: Any
) -> None:
    land(settings, PRODUCTS, f"{D[0]}.csv", "1,10", "2,20")
    land(settings, PRODUCTS, f"{D[1]}.csv", "1,dear", "2,-1")
    land(settings, PRODUCTS, f"{D[2]}.csv", "1,dear", "2,21")
    ingest(settings, PRODUCTS)
    why = "none of its rows is good; line 2: price 'dear' is not of type double"
    files = {file.event_day: file for file in ingested_files(settings, PRODUCTS)}
    assert [(files[day].error, files[day].raw_rows, files[day].quarantined_rows) for day in D[:3]] == [
        (None, 2, 0), (why, 0, 0), (None, 1, 1),
    ]  # fmt: skip
    assert reconcile(settings, PRODUCTS, D[:3])[D[1]].success
    require_delivered(settings, dataclasses.replace(PRODUCTS, missing="last"), [D[1]])
    before = [(1, 10.0), (2, 20.0)]
    assert known(spark, settings, PRODUCTS, *D[:3]) == {D[0]: before, D[1]: before, D[2]: [(2, 21.0)]}


def test_state_in_parts_is_quarantined_whatever_the_order_in_which_they_land(settings: Settings, spark: Any) -> None:
    for part, row in enumerate(("1,10", "2,20", "3,30")):
        land(settings, PRODUCTS, f"{D[1]}.part{part}.csv", row)
    land(settings, PRODUCTS, f"{D[2]}.part0.csv", "1,10")
    ingest(settings, PRODUCTS)
    land(settings, PRODUCTS, f"{D[2]}.part1.csv", "2,20")
    land(settings, PRODUCTS, f"{D[2]}.empty.csv")
    ingest(settings, PRODUCTS)
    first, other = f"{D[1]}.part0.csv", f"{D[1]}.part1.csv"
    why = "it has no key of '{}', a file of the same day: a state is one file"
    errors = {file.file: file.error for file in ingested_files(settings, PRODUCTS)}
    assert errors == {
        first: why.format(other),
        other: why.format(first),
        f"{D[1]}.part2.csv": why.format(first),
        f"{D[2]}.part0.csv": None,
        f"{D[2]}.part1.csv": why.format(f"{D[2]}.part0.csv"),
        f"{D[2]}.empty.csv": None,
    }
    assert all(outcome.success for outcome in reconcile(settings, PRODUCTS, D[1:3]).values())
    with pytest.raises(InputError, match="is in quarantine: it has no key of"):
        require_delivered(settings, PRODUCTS, [D[1]])


@pytest.mark.parametrize("name", ["name", "path", "place", "content", "first"])
def test_a_state_is_judged_whatever_its_columns_are_called(settings: Settings, name: str) -> None:
    source = dataclasses.replace(PRODUCTS, columns=(Column("product_id", "int"), Column(name, "string")))
    land(settings, source, f"{D[0]}.csv", "1,x", "2,x", "1,y")
    land(settings, source, f"{D[1]}.csv", "1,x", "2,x")
    ingest(settings, source)
    land(settings, source, f"{D[1]}.2.csv", "3,x")
    ingest(settings, source)
    assert {file.file: (file.error, file.raw_rows) for file in ingested_files(settings, source)} == {
        f"{D[0]}.csv": ("it has the key product_id 1 in lines 2 and 4", 0),
        f"{D[1]}.csv": (None, 2),
        f"{D[1]}.2.csv": (f"it has no key of '{D[1]}.csv', a file of the same day: a state is one file", 0),
    }


def test_night_before_the_first_state_has_no_rows(settings: Settings, spark: Any) -> None:
    land(settings, PRODUCTS, f"{D[3]}.csv", "1,10")
    ingest(settings, PRODUCTS)
    assert known(spark, settings, PRODUCTS, D[0]) == {D[0]: []}


def test_row_in_quarantine_makes_no_key_a_double(settings: Settings, spark: Any) -> None:
    land(settings, PRODUCTS, f"{D[0]}.csv", "1,10", "1,-5", "2,20")
    ingest(settings, PRODUCTS)
    [file] = ingested_files(settings, PRODUCTS)
    assert (file.error, file.raw_rows, file.quarantined_rows) == (None, 2, 1)


def test_rows_without_time_count_for_every_date_and_a_change_makes_all_stale(settings: Settings, spark: Any) -> None:
    land(settings, REGIONS, f"{D[2]}.csv", "1,10")
    with pytest.raises(InputError, match="has not been ingested"):
        require_delivered(settings, REGIONS, [D[2]])
    ingest(settings, REGIONS)
    require_delivered(settings, REGIONS, D)
    assert known(spark, settings, REGIONS, D[0], D[5]) == {D[0]: [(1, 10.0)], D[5]: [(1, 10.0)]}
    later = horizon_rows(spark, settings, [REGIONS], [D[5]], 3)["regions"]
    assert [(row.product_id, row.as_of) for row in later.collect()] == [(1, D[5])]
    before = source_state(settings, REGIONS, D)
    land(settings, REGIONS, f"{D[4]}.csv", "2,20")
    ingest(settings, REGIONS)
    after = source_state(settings, REGIONS, D)
    assert all(after[day] != before[day] for day in D)
    assert known(spark, settings, REGIONS, D[0]) == {D[0]: [(2, 20.0)]}


@pytest.mark.parametrize("source", [ORDERS, dataclasses.replace(PRODUCTS, name="items")], ids=["events", "snapshot"])
def test_missing_delivery_fails_waits_or_goes_on_as_declared(settings: Settings, spark: Any, source: Source) -> None:
    land(settings, source, f"{D[1]}.csv", f"1,{D[1]}" if source.event_time else "1,10")
    ingest(settings, source)
    for missing, error, sentence in (
        ("fail", InputError, f"As-of date {D[2]} is empty: source {source.name!r} has no landing file for that day."),
        ("wait", NotYetError, f"As-of date {D[2]} waits: source {source.name!r} has not delivered that day yet. Run"),
    ):
        declared = dataclasses.replace(source, missing=missing)
        require_delivered(settings, declared, [D[1]])
        with pytest.raises(error) as refused:
            require_delivered(settings, declared, [D[1], D[2]])
        assert sentence in str(refused.value)
    goes_on = dataclasses.replace(source, missing="last")
    require_delivered(settings, goes_on, [D[1], D[2], D[7]])
    with pytest.raises(InputError, match=f"As-of date {D[0]} is empty"):
        require_delivered(settings, goes_on, [D[0], D[2]])


def test_file_in_quarantine_is_refused_whatever_is_missing_but_last(settings: Settings, spark: Any) -> None:
    land(settings, ORDERS, f"{D[1]}.csv", f"1,{D[1]}")
    land(settings, ORDERS, f"{D[2]}.csv")
    (Path(settings.landing_uri) / "orders" / f"{D[2]}.csv").write_text("no,such,header\n")
    ingest(settings, ORDERS)
    with pytest.raises(InputError, match="is in quarantine"):
        require_delivered(settings, dataclasses.replace(ORDERS, missing="wait"), [D[2]])
    require_delivered(settings, dataclasses.replace(ORDERS, missing="last"), [D[2]])
