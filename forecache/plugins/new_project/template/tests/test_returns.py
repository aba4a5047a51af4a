"""The pipeline's SQL on a few hand-written events."""

from datetime import date
from typing import Any

from new_project.landing import landing_days
from new_project.pipelines.returns import returns

from forecache import load_settings, read_project
from forecache.testing import select_rows

AS_OF = date(2026, 1, 31)


def visit(visitor: str, day: date, pages: int) -> dict[str, Any]:
    return {"visitor": visitor, "day": day, "pages": pages, "event_day": day}


def test_the_project_can_be_loaded() -> None:
    project = read_project(load_settings(project="new_project"))
    assert not project.broken
    assert "returns" in project.pipelines


def test_the_demo_has_rows_as_the_source_declares_them() -> None:
    for source, day, rows in landing_days():
        assert source.start <= day <= (source.end or date.max)
        assert all(len(row) == len(source.columns) for row in rows)


def test_features_count_visits_within_their_windows() -> None:
    visits = [visit("ann", date(2026, 1, 31), 2), visit("ann", date(2026, 1, 10), 4), visit("bob", date(2026, 1, 2), 6)]
    found = select_rows(returns.views[0].statement, {"visits": visits}, AS_OF)
    rows = {row["visitor"]: row for row in found}
    same = {"as_of": AS_OF}
    assert rows["ann"] == same | {
        "visitor": "ann", "recency_days": 0, "visits_7d": 1, "visits_28d": 2, "mean_pages": 3.0
    }  # fmt: skip
    assert rows["bob"] == same | {
        "visitor": "bob", "recency_days": 29, "visits_7d": 0, "visits_28d": 0, "mean_pages": 6.0
    }  # fmt: skip


def test_the_label_is_one_for_visitors_who_came_back() -> None:
    after = [visit("ann", date(2026, 2, 3), 1), visit("ann", date(2026, 2, 5), 1)]
    rows = {"entities": [{"visitor": "ann"}, {"visitor": "bob"}], "visits": after}
    found = select_rows(returns.label_statement, rows, AS_OF)
    assert {row["visitor"]: row["returned"] for row in found} == {"ann": 1.0, "bob": 0.0}
