"""What the promotion ledger's rows say together: past champions, versions rolled back, an operation cut short."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from threading import Barrier
from typing import Any

import pytest

from forecache.base.settings import Settings
from forecache.models.registry.promotions import (
    OtherDecisionError,
    Promotion,
    earlier_champions,
    find_unfinished,
    last_promotion,
    promotions,
    record_promotion,
    rolled_back_versions,
)


def row(action: str, before: int | None, after: int | None, verdict: str = "passed", **more: Any) -> Promotion:
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    return Promotion(
        recorded_at=now,
        pipeline="churn",
        action=action,
        actor="test",
        from_version=before,
        to_version=after,
        verdict=verdict,
        reason="",
        training_table="training_set_churn",
        training_version=1,
        **more,
    )


UP = [row("gate", None, 1), row("gate", 1, 1, "failed", candidate=2), row("gate", 1, 3), row("gate", 3, 4)]
BACK = [row("rollback", 4, 3, verdict, operation="a") for verdict in ("begun", "passed")]


def test_decisions_stand_in_the_order_they_were_written_whatever_the_clocks_say(settings: Settings) -> None:
    clocks = [50, 10, 30, 20]  # seconds, of two machines
    written = [
        replace(entry, recorded_at=entry.recorded_at + timedelta(seconds=clock))
        for entry, clock in zip([UP[2], UP[3], *BACK], clocks, strict=True)
    ]
    for entry in written:
        record_promotion(settings, entry, after=last_promotion(settings, "churn"))
    found = promotions(settings, "churn")
    assert [entry.recorded_at for entry in found] == [entry.recorded_at for entry in written]
    assert [entry.position for entry in found] == [-1, 0, 1, 2]
    assert rolled_back_versions(found) == {4}


def test_of_decisions_of_one_moment_on_the_same_row_one_is_recorded(settings: Settings) -> None:
    together = Barrier(4)

    def write(number: int) -> bool:
        together.wait()
        try:
            record_promotion(settings, row("gate", 1, number), after=None)
        except OtherDecisionError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        recorded = list(pool.map(write, range(2, 6)))
    [entry] = promotions(settings, "churn")
    assert recorded == [number == entry.to_version for number in range(2, 6)]


def test_a_decision_about_another_model_is_in_nobodys_way(settings: Settings) -> None:
    record_promotion(settings, row("gate", None, 1), after=None)
    first = last_promotion(settings, "churn")
    record_promotion(settings, replace(row("gate", None, 1), pipeline="spend"), after=None)
    record_promotion(settings, row("gate", 1, 2), after=first)
    with pytest.raises(OtherDecisionError):
        record_promotion(settings, row("gate", 1, 3), after=first)
    assert [(entry.to_version, entry.position) for entry in promotions(settings, "churn")] == [(1, -1), (2, 1)]


def test_past_champions_are_those_that_went_live_the_latest_first() -> None:
    assert earlier_champions(UP) == [4, 3, 1]
    assert earlier_champions([*UP, *BACK]) == [3, 4, 1]
    assert earlier_champions([]) == []


def test_a_version_stays_rolled_back_until_a_person_brings_it_back() -> None:
    assert rolled_back_versions([*UP, *BACK]) == {4}
    assert rolled_back_versions([*UP, BACK[0]]) == set()
    assert rolled_back_versions([*UP, *BACK, row("promote", 3, 4)]) == set()
    assert rolled_back_versions([*UP, *BACK, row("rollback", 3, 1)]) == {3, 4}


def test_an_operation_is_unfinished_until_it_passed_or_was_undone() -> None:
    assert find_unfinished(UP) is None
    assert find_unfinished([*UP, BACK[0]]) == BACK[0]
    assert find_unfinished([*UP, *BACK]) is None
    undone = row("rollback", 4, 4, "undone", operation="a")
    assert find_unfinished([*UP, BACK[0], undone]) is None
    again = row("rollback", 4, 3, "begun", operation="b")
    assert find_unfinished([*UP, BACK[0], undone, again]) == again
