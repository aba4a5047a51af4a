"""Declared windows: nights from tiles are those of plain Spark over all rows; only what a change reaches is redone."""

import dataclasses
import random
import shutil
import struct
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as limits
from hypothesis import strategies as st
from windows_sample import SALES, VIEW, days_after, free_form, land, random_rows

from forecache.base.errors import InputError
from forecache.base.settings import Settings, load_settings
from forecache.declare import FeatureView, Where, Window
from forecache.kit.delta.tables import open_table, table_exists
from forecache.lake.feature_rows import view_frame
from forecache.lake.features import build_view, stale_nights
from forecache.lake.ingest.ingest import ingest
from forecache.lake.ledger import last_records
from forecache.plugins.historical_features import night_features as known
from forecache.plugins.historical_features.historical import historical_features
from forecache.plugins.historical_features.night_features import load_night_features
from forecache.plugins.window_features.nights import window_frame

NIGHTS = [days_after(number) for number in (2, 5, 6, 8)]
LAST = 8
Contents = dict[tuple[Any, ...], tuple[bytes | None, ...]]


def contents(rows: Sequence[dict[str, Any]], view: FeatureView, code: str) -> Contents:
    """The bits of every feature by key and night; two rows of one entity are an error."""
    found = {
        tuple(row[name] for name in (*view.key, "as_of")): tuple(
            None if row[name] is None else struct.pack(code, row[name]) for name in view.feature_names
        )
        for row in rows
    }
    assert len(found) == len(rows)
    return found


def of_frame(frame: Any, view: FeatureView = VIEW) -> Contents:
    return contents([row.asDict() for row in frame.collect()], view, "d")


def as_float(found: Contents) -> Contents:
    return {
        key: tuple(None if v is None else struct.pack("f", struct.unpack("d", v)[0]) for v in values)
        for key, values in found.items()
    }


def tile_commits(settings: Settings) -> dict[date | None, int | None]:
    return {day: record.commit_version for day, record in last_records(settings, "tiles", VIEW.name).items()}


@pytest.mark.slow
@limits(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(
    seed=st.integers(0, 1 << 30),
    changes=st.lists(st.tuples(st.integers(0, LAST), st.booleans()), min_size=2, max_size=2),
)
def test_nights_after_late_and_corrected_days_are_those_of_all_rows(
    spark: Any, tmp_path_factory: pytest.TempPathFactory, seed: int, changes: list[tuple[int, bool]]
) -> None:
    rng, settings = random.Random(seed), load_settings(home=tmp_path_factory.mktemp("windows"), spark_master="local[2]")
    for number in range(LAST + 1):
        land(settings, days_after(number), random_rows(rng, days_after(number), rng.randint(0, 8)))
    ingest(settings, SALES)
    first = build_view(settings, VIEW, NIGHTS)
    assert len(first.details["built"]) == len(NIGHTS)
    for turn, (number, is_correction) in enumerate(changes):
        day, before = days_after(number), tile_commits(settings)
        if is_correction:
            land(settings, day, random_rows(rng, day, rng.randint(0, 8)))
            ingest(settings, SALES, correctable=[day])
        else:
            land(settings, day, random_rows(rng, day, rng.randint(1, 8)), name=f".late{turn}")
            ingest(settings, SALES)
        reached = [night for night in NIGHTS if 0 <= (night - day).days < VIEW.longest_window_days]
        assert set(stale_nights(settings, VIEW)) <= set(reached)
        result = build_view(settings, VIEW, NIGHTS)
        assert set(result.details["built"]) <= {night.isoformat() for night in reached}
        after = tile_commits(settings)
        assert {each for each in after if after[each] != before.get(each)} <= {day}
        wanted = of_frame(free_form(spark, settings, VIEW, NIGHTS))
        table = open_table(settings, VIEW.feature_table).to_pyarrow_table().to_pylist()
        assert contents(table, VIEW, "f") == as_float(wanted)
    assert of_frame(window_frame(settings, VIEW, NIGHTS)) == wanted


def test_late_day_redoes_its_tile_and_the_nights_that_see_it_and_nothing_else(settings: Settings, spark: Any) -> None:
    for number in range(9):
        land(settings, days_after(number), [f"x,1,{days_after(number)}T01:00:00Z,2.5,1,a"])
    ingest(settings, SALES)
    view = dataclasses.replace(VIEW, active_days="longest")
    nights = [days_after(number) for number in (3, 4, 6, 7, 8)]
    build_view(settings, view, nights)
    before = tile_commits(settings)
    land(settings, days_after(2), [f"y,2,{days_after(2)}T02:00:00Z,4.5,3,b"], name=".late")
    ingest(settings, SALES)
    assert stale_nights(settings, view) == tuple(nights[:3])
    assert build_view(settings, view, nights).details["built"] == [night.isoformat() for night in nights[:3]]
    after = tile_commits(settings)
    assert {day for day in after if after[day] != before[day]} == {days_after(2)}
    assert build_view(settings, view, nights).skipped


def test_new_night_reads_one_day_of_raw_rows(settings: Settings, spark: Any) -> None:
    """The raw rows of older days may be gone, as after a retention: their tiles do."""
    for number in range(5):
        land(settings, days_after(number), [f"x,1,{days_after(number)}T01:00:00Z,{number}.5,1,a"])
    ingest(settings, SALES)
    build_view(settings, VIEW, [days_after(4)])
    open_table(settings, SALES.raw_table).delete("event_day < '2026-01-05'")
    land(settings, days_after(5), [f"x,1,{days_after(5)}T01:00:00Z,5.5,1,b"])
    ingest(settings, SALES)
    build_view(settings, VIEW, [days_after(5)])
    (row,) = open_table(settings, VIEW.feature_table).to_pyarrow_table([("as_of", "=", "2026-01-06")]).to_pylist()
    assert (row["amount_5d"], row["articles_5d"], row["rows_3d"]) == (1.5 + 2.5 + 3.5 + 4.5 + 5.5, 2.0, 3.0)


def test_a_join_computes_the_nights_of_its_keys_and_of_no_others(
    settings: Settings, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    for number in range(LAST + 1):
        land(settings, days_after(number), random_rows(rng, days_after(number), 8))
    ingest(settings, SALES)
    every = as_float(of_frame(window_frame(settings, VIEW, NIGHTS)))
    wanted = [key for key in every if rng.random() < 0.3] + [("nowhere", 7, NIGHTS[0]), ("x", 2**40, NIGHTS[0])]
    asked = spark.createDataFrame(wanted * 2 + [(None, 1, NIGHTS[0])], "shop string, till bigint, as_of date")
    rows = [row.asDict() for row in load_night_features(spark, settings, VIEW, NIGHTS, asked=asked).collect()]
    assert contents(rows, VIEW, "f") == {key: every[key] for key in wanted if key in every}
    monkeypatch.setattr(known, "_MOST_ASKED", len(wanted) - 1)
    rows = [row.asDict() for row in load_night_features(spark, settings, VIEW, NIGHTS, asked=asked).collect()]
    assert contents(rows, VIEW, "f") == every
    texts = asked.selectExpr("shop", "'first' AS till", "timestamp(as_of) AS event_timestamp")
    with pytest.raises(InputError, match="has 'till' as string, and the view 'till_sales' as int. Cast it"):
        historical_features(spark, settings, [VIEW], texts)


def test_tiles_that_were_deleted_are_made_again(settings: Settings, spark: Any) -> None:
    for number in range(2):
        land(settings, days_after(number), [f"x,1,{days_after(number)}T01:00:00Z,{number}.5,1,a"])
    ingest(settings, SALES)
    build_view(settings, VIEW, [days_after(0)])
    shutil.rmtree(Path(settings.lake_uri) / VIEW.tile_table)
    build_view(settings, VIEW, [days_after(1)])
    (row,) = open_table(settings, VIEW.feature_table).to_pyarrow_table([("as_of", "=", "2026-01-02")]).to_pylist()
    assert row["amount_3d"] == 2.0


def test_value_too_large_for_an_exact_sum_is_named_and_nothing_is_written(settings: Settings, spark: Any) -> None:
    land(settings, days_after(0), [f"x,1,{days_after(0)}T01:00:00Z,1e15,1,a"])
    ingest(settings, SALES)
    with pytest.raises(
        InputError, match=r"sums the column 'amount', which has the value 1000000000000000\.0\. Sums are exact.*min"
    ):
        build_view(settings, VIEW, [days_after(0)])
    assert not table_exists(settings, VIEW.feature_table)
    least = dataclasses.replace(
        VIEW, windows=(Window("small", "sum", 2, "amount", where=(Where("amount", "<", 1e9),)),)
    )
    rows = [row.asDict() for row in view_frame(spark, settings, least, [days_after(0)]).collect()]
    assert [row["small"] for row in rows] == [0.0]


def test_keys_ever_seen_have_a_row_where_that_is_declared(settings: Settings, spark: Any) -> None:
    for number in range(12):
        rows = [f"x,1,{days_after(0)}T01:00:00Z,1,1,a"] if number == 0 else []
        land(settings, days_after(number), rows)
    ingest(settings, SALES)
    night = days_after(11)
    ever = dataclasses.replace(VIEW, active_days="ever")
    assert of_frame(window_frame(settings, ever, [night])) == of_frame(free_form(spark, settings, ever, [night]))
    assert window_frame(settings, ever, [night]).count() == 1
    assert window_frame(settings, VIEW, [night]).count() == 0


def test_order_and_batches_of_rows_do_not_change_a_bit(spark: Any, tmp_path: Path) -> None:
    day, found = days_after(0), []
    lines = random_rows(random.Random(5), day, 200)
    for turn in range(2):
        settings = load_settings(home=tmp_path / str(turn), spark_master="local[2]")
        random.Random(turn).shuffle(lines)
        for part in range(1 + 2 * turn):
            land(settings, day, lines[part :: 1 + 2 * turn], name=f".{part}")
        ingest(settings, SALES)
        found.append(of_frame(window_frame(settings, VIEW, [day, day + timedelta(days=1)])))
    assert found[0] == found[1]
    assert len(found[0]) == 12
