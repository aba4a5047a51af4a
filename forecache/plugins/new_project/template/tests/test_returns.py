"""The pipeline's functions on a few hand-written events."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from new_project.landing import landing_days
from new_project.pipelines.returns import returned, visit_features

from forecache import load_settings, read_project

AS_OF = date(2026, 1, 31)


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from forecache.testing import spark_session, stop_spark

    home: Path = tmp_path_factory.mktemp("spark")
    yield spark_session(load_settings(home=home, spark_master="local[1]", spark_driver_memory="1g"))
    stop_spark()


def visits(spark: Any, *rows: tuple[str, date, int]) -> dict[str, Any]:
    """Events in the form that the functions receive, all of one as-of date."""
    frame = [(visitor, day, pages, day, AS_OF) for visitor, day, pages in rows]
    return {"visits": spark.createDataFrame(frame, "visitor string, day date, pages int, event_day date, as_of date")}


def test_the_project_can_be_loaded() -> None:
    project = read_project(load_settings(project="new_project"))
    assert not project.broken
    assert "returns" in project.pipelines


def test_the_demo_has_rows_as_the_source_declares_them() -> None:
    for source, day, rows in landing_days():
        assert source.start <= day <= (source.end or date.max)
        assert all(len(row) == len(source.columns) for row in rows)


def test_features_count_visits_within_their_windows(spark: Any) -> None:
    events = visits(spark, ("ann", date(2026, 1, 31), 2), ("ann", date(2026, 1, 10), 4), ("bob", date(2026, 1, 2), 6))
    rows = {row["visitor"]: row.asDict() for row in visit_features(events).collect()}
    same = {"as_of": AS_OF}
    assert rows["ann"] == same | {
        "visitor": "ann", "recency_days": 0, "visits_7d": 1, "visits_28d": 2, "mean_pages": 3.0
    }  # fmt: skip
    assert rows["bob"] == same | {
        "visitor": "bob", "recency_days": 29, "visits_7d": 0, "visits_28d": 0, "mean_pages": 6.0
    }  # fmt: skip


def test_the_label_is_one_for_visitors_who_came_back(spark: Any) -> None:
    entities = spark.createDataFrame([("ann", AS_OF), ("bob", AS_OF)], "visitor string, as_of date")
    after = visits(spark, ("ann", date(2026, 2, 3), 1), ("ann", date(2026, 2, 5), 1))
    assert {row["visitor"]: row["returned"] for row in returned(entities, after).collect()} == {"ann": 1.0, "bob": 0.0}
