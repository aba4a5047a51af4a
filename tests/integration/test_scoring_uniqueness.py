"""Keys are counted exactly, in memory and on disk, and a key that is there twice is found wherever it lies."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scoring_support import make_pipeline

from forecache.base.hashes import row_hashes
from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.kit.delta.files import DataFile, place_of
from forecache.scoring.partitions import commit as uniqueness

PIPELINE = make_pipeline(num_features=2)


def staged(settings: Settings, tables: Sequence[pa.Table]) -> list[DataFile]:
    Path(settings.table_uri("predictions")).mkdir(parents=True, exist_ok=True)
    filesystem = place_of(settings, "predictions").open()
    files = []
    for number, table in enumerate(tables):
        with filesystem.open_output_stream(f"{number}.parquet") as sink:
            pq.write_table(table, sink)
        files.append(DataFile(f"{number}.parquet", 0, {}, {"numRecords": table.num_rows}))
    return files


def texts(numbers: Sequence[int]) -> pa.Table:
    return pa.table({"user_id": [f"entity {i}" for i in numbers]})


@pytest.fixture(params=["memory", "disk"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "disk":
        monkeypatch.setattr(uniqueness, "_WAITING_BYTES", 800)
        monkeypatch.setattr(uniqueness, "_BATCH_ROWS", 128)


@pytest.mark.usefixtures("kept")
def test_keys_that_all_differ_are_as_many_as_rows_and_are_not_compared(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uniqueness, "_count_exactly", None)
    files = staged(settings, [texts(range(1000)), texts(range(1000, 1700)), texts([])])
    assert uniqueness.count_keys(settings, PIPELINE, "predictions", files) == 1700
    assert uniqueness.count_keys(settings, PIPELINE, "predictions", []) == 0


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("twice", [(3, 900), (0, 1), (998, 999)])
def test_a_key_that_is_there_twice_counts_once(settings: Settings, twice: tuple[int, int]) -> None:
    numbers = list(range(1000))
    numbers[twice[1]] = numbers[twice[0]]
    files = staged(settings, [texts(numbers[:950]), texts(numbers[950:])])
    assert uniqueness.count_keys(settings, PIPELINE, "predictions", files) == 999


def test_keys_whose_hashes_are_equal_by_chance_are_told_apart(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uniqueness, "row_hashes", lambda columns: row_hashes(columns) & np.uint64(0xFF << 56))
    files = staged(settings, [texts(range(600)), texts(range(600, 1000))])
    assert uniqueness.count_keys(settings, PIPELINE, "predictions", files) == 1000


def test_composite_keys_differ_where_one_part_does(settings: Settings) -> None:
    pipeline = object.__new__(Pipeline)
    object.__setattr__(pipeline, "key", ("shop", "day"))
    table = pa.table({"shop": [1, 1, 2, 2], "day": [date(2024, 1, 1), date(2024, 1, 2)] * 2})
    files = staged(settings, [table])
    assert uniqueness.count_keys(settings, pipeline, "predictions", files) == 4
    assert uniqueness.count_keys(settings, pipeline, "predictions", [*files, *staged(settings, [table])]) == 4
