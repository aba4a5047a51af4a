"""Tasks of windows: however rows are cut into files and batches, and keys into tasks, tiles and nights are the same."""

import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forecache.kit.delta.files import Place
from forecache.kit.windows.states import MeasureState, as_tiles
from forecache.plugins.window_features import tasks
from forecache.plugins.window_features.tasks import BUCKET, NightTask, TileTask, split_buckets
from forecache.plugins.window_features.tile_merge import TileMerger, WindowFeature

START = date(2026, 1, 1)
AT = pa.timestamp("us", tz="UTC")
READ = pa.schema({"shop": pa.string(), "till": pa.int32(), "at": AT, "amount": pa.float64(), "on": pa.bool_()})
STATES = (
    MeasureState("count", ("rows",), None, (("on", ">=", True),)),
    MeasureState("sum", ("whole", "part"), "amount"),
    MeasureState("min", ("least",), "amount", (("amount", "in", (0.0, 2.5, -1.0)),)),
    MeasureState("max", ("most",), "amount", (("amount", "!=", 7.0),)),
    MeasureState("last", ("last_at", "last"), "amount"),
    MeasureState("distinct", ("kinds",), "on"),
)
KEY = ("shop", "till")
FEATURES = (
    WindowFeature("n", "count", 2, ("rows",)),
    WindowFeature("total", "sum", 3, ("whole", "part")),
    WindowFeature("least", "min", 3, ("least",)),
    WindowFeature("newest", "last", 2, ("last_at", "last")),
    WindowFeature("kinds_3d", "distinct", 3, ("kinds",)),
)


def rows_of(rng: random.Random, day: date, count: int) -> list[dict[str, Any]]:
    return [
        {
            "shop": rng.choice(["x", "y", "a longer name of a shop", None]),
            "till": rng.choice([1, 2, 300, None]),
            "at": f"{day}T{rng.choice(['00:00:00', '12:00:00'])}+00:00",
            "amount": rng.choice([0.1, -0.0, 0.0, 2.5, 7.0, 1e9 + 0.1, float("nan"), float("inf"), None]),
            "on": rng.choice([True, False, None]),
        }
        for _ in range(count)
    ]


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {name: [row[name] for row in rows] for name in READ.names}
    columns["at"] = pa.array(columns["at"], pa.string()).cast(AT)
    return pa.table(columns, schema=READ)


def tiles_of(folder: Path, day: date, files: list[list[dict[str, Any]]], *, num_tasks: int = 1) -> list[str]:
    """Paths of the tiles that tasks write of a day's files, below the folder."""
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    paths = []
    for number, rows in enumerate(files):
        paths.append(f"{day}-{number}.parquet")
        pq.write_table(table_of(rows), folder / "raw" / paths[-1])
    (folder / "tiles").mkdir(exist_ok=True)
    stored = as_tiles(READ.empty_table(), KEY, STATES, "at").schema.append(pa.field(BUCKET, pa.int32()))
    places = Place(str(folder / "raw")), Place(str(folder / "tiles"))
    given = (*places, day, tuple(paths), READ, stored, KEY, STATES, "at", "written")
    parts = split_buckets(num_tasks)
    return [file.path for part in parts for file in TileTask(*given, buckets=part).files()]


def test_tiles_do_not_depend_on_files_batches_or_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(random.Random(1), START, 500)
    (whole,) = tiles_of(tmp_path / "whole", START, [rows])
    for name in ("_READ_ROWS", "_HELD_ROWS", "_GROUP_ROWS"):
        monkeypatch.setattr(tasks, name, 7)
    random.Random(2).shuffle(rows)
    (parts,) = tiles_of(tmp_path / "parts", START, [rows[:3], rows[3:200], [], rows[200:]])
    order = [("shop", "ascending"), ("till", "ascending")]
    wanted, found = (pq.read_table(tmp_path / each) for each in (f"whole/tiles/{whole}", f"parts/tiles/{parts}"))
    assert wanted.num_rows == 9
    assert found.sort_by(order).to_pylist() == wanted.sort_by(order).to_pylist()
    assert found[BUCKET].to_pylist() == sorted(found[BUCKET].to_pylist())
    assert pq.read_metadata(tmp_path / "parts/tiles" / parts).num_row_groups == 2


def test_tiles_of_several_tasks_are_those_of_one(tmp_path: Path) -> None:
    rows, order = rows_of(random.Random(4), START, 500), [("shop", "ascending"), ("till", "ascending")]
    whole, parts = tiles_of(tmp_path, START, [rows]), tiles_of(tmp_path, START, [rows], num_tasks=5)
    assert len(parts) > 1
    wanted, found = (
        pa.concat_tables([pq.read_table(tmp_path / "tiles" / path) for path in paths]).sort_by(order)
        for paths in (whole, parts)
    )
    assert found.to_pylist() == wanted.to_pylist()


def test_nights_do_not_depend_on_the_number_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_GROUP_ROWS", 2)
    rng, days = random.Random(3), [START + timedelta(days=number) for number in range(5)]
    files = tuple((day, tuple(tiles_of(tmp_path, day, [rows_of(rng, day, 20)]))) for day in days)
    merge = TileMerger(KEY, FEATURES, tuple(days[2:]), 2)
    empty = as_tiles(READ.empty_table(), KEY, STATES, "at")
    read = empty.schema
    stored = pa.schema([read.field("shop"), read.field("till"), *(pa.field(f.name, pa.float32()) for f in FEATURES)])
    place, found = Place(str(tmp_path / "tiles")), []
    for num_parts in (1, 7):
        parts = [NightTask(place, files, read, part, merge, stored) for part in split_buckets(num_parts)]
        rows = [row for part in parts for batch in part.rows() for row in batch.to_pylist()]
        found.append(sorted(rows, key=lambda row: (row["as_of"], row["shop"], row["till"])))
        assert len([part for part in parts if list(part.rows())]) > 1 or num_parts == 1
    assert found[0] == found[1]
    assert len({(row["as_of"], row["shop"], row["till"]) for row in found[0]}) == len(found[0]) > 20
