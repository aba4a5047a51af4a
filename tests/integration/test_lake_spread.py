"""A frame of many partitions is written by Arrow with the rows, columns and statistics that Spark's own files have."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from forecache.base.settings import Settings
from forecache.kit.delta import writers as spread
from forecache.kit.delta.files import DataFile
from forecache.kit.delta.writers import write_frame, write_partitioned
from forecache.kit.spark.session import spark_path

EVERY_TYPE = (
    "cast(id % 40 = 0 as boolean) as yes",
    "cast(id as int) as number",
    "nullif(id, 7) as long",
    "id / 3 as ratio",
    "cast(id as decimal(12, 2)) as money",
    "concat('row ', id) as text",
    "date_add(date '2026-01-01', cast(id as int) % 500) as day",
    "timestamp_micros(1700000000123456 + id) as moment",
    "array(id, null) as many",
    "date_add(date '2026-01-01', cast(id as int) % 12) as event_day",
)


def _stored(spark: Any, settings: Settings, files: list[DataFile]) -> tuple[Any, list[Any]]:
    root = spark_path(settings.table_uri("t"))
    frame = spark.read.option("basePath", f"{root}/{files[0].path.split('/')[0]}")
    frame = frame.parquet(*(f"{root}/{file.path}" for file in files))
    return frame.dtypes, sorted(frame.collect(), key=lambda row: row.number)


def _by_day(files: list[DataFile]) -> dict[str, DataFile]:
    found = {str(file.partition["event_day"]): replace(file, path="", size_bytes=0) for file in files}
    assert len(found) == len(files)
    return found


@pytest.mark.slow
def test_spread_rows_are_stored_as_spark_stores_them(settings: Settings, spark: Any) -> None:
    frame = spark.range(20_000).selectExpr(*EVERY_TYPE).repartition(1, "event_day")
    schema, expected = write_frame(frame, settings, "t", partition_by="event_day")
    own_schema, files = write_partitioned(frame, settings, "t", partition_by="event_day")
    assert own_schema == schema
    assert _stored(spark, settings, files) == _stored(spark, settings, expected)
    assert _by_day(files) == _by_day(expected)


def test_rows_of_a_file_are_held_up_to_a_size_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "_GROUP_BYTES", 3 * 800)
    pieces = [pa.table({"x": range(100 * i, 100 * i + 100)}) for i in range(8)]
    groups = list(spread._row_groups(pieces))
    assert [group.num_rows for group in groups] == [300, 300, 200]
    assert pa.concat_tables(groups) == pa.concat_tables(pieces)


def test_frame_without_rows_has_no_files(settings: Settings, spark: Any) -> None:
    frame = spark.range(0).selectExpr(*EVERY_TYPE)
    schema, files = write_partitioned(frame, settings, "t", partition_by="event_day")
    assert files == []
    assert [field.name for field in schema.fields][-1] == "event_day"
