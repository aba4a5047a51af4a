"""The stage runner: what is current is not done again, what was committed and not recorded is taken up."""

from collections.abc import Mapping, Sequence
from datetime import date

import pytest

from forecache.base.settings import Settings, load_settings
from forecache.kit.spark import session
from forecache.lake.engine import Engine
from forecache.lake.ledger import last_records
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.plugins.cost.stage_costs import stage_lines

NIGHTS = [date(2026, 1, day) for day in (1, 2, 3)]


@pytest.fixture
def stage(settings: Settings) -> Stage:
    return Stage(settings, "score", "churn", "run 1")


def test_a_stage_works_once_for_its_inputs_and_again_where_its_result_is_gone(stage: Stage) -> None:
    calls: list[str] = []

    def work() -> StageOutcome:
        calls.append("worked")
        return StageOutcome(len(calls), {"call": len(calls)})

    row, skipped = stage.run_once("a", work)
    assert (row.rows, row.run_id, skipped) == (1, "run 1", False)
    again, skipped = stage.run_once("a", work)
    assert (again.details["call"], skipped, len(calls)) == (1, True, 1)
    assert again.details["cost"] == row.details["cost"]
    assert (row.details["cost"]["core_s"] > 0, row.details["cost"]["nights"]) == (True, 1)
    assert stage.run_once("a", work, usable=lambda _: False)[0].rows == 2
    assert stage.run_once("a", work, rebuild=True)[0].rows == 3
    assert stage.run_once("b", work)[0].rows == 4
    assert stage.run_once("b", work, night=NIGHTS[0])[0].rows == 5


@pytest.mark.parametrize(("master", "is_measured"), [("local[2]", True), ("spark://host:7077", False)])
def test_core_seconds_are_not_recorded_of_what_executors_of_a_cluster_did(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, master: str, is_measured: bool
) -> None:
    monkeypatch.setattr(session, "_session", object())  # it is started already
    stage = Stage(load_settings(home=settings.home, spark_master=master, prices={"cpu": (3.6, 0.36)}), "score", "churn")
    engine = Engine(stage.settings, "spark")

    def work() -> StageOutcome:
        engine.session()
        return StageOutcome(1, seconds=2.0)

    row, _ = stage.run_once("a", work)
    measured = {"core_s", "price_on_demand", "price_spot"} if is_measured else set()
    assert set(row.details["cost"]) == {"nights", "peak_bytes"} | measured
    assert (row.core_s(4) == 8.0) == (not is_measured)
    [line] = stage_lines(stage.settings, [row], 1.0, cores=4)
    assert line.basis == ("measured" if is_measured else "held")


def test_only_stale_nights_are_done_in_order_and_as_many_at_once_as_allowed(stage: Stage) -> None:
    asked: list[list[date]] = []

    def work(nights: Sequence[date]) -> dict[date, StageOutcome]:
        asked.append(list(nights))
        return {night: StageOutcome(night.day, table="t", delta_version=7) for night in nights}

    inputs = dict.fromkeys(reversed(NIGHTS), "a")
    told: list[float] = []
    records, done = stage.run_nights(inputs, work, at_once=2, progress=lambda _, share: told.append(share))
    assert asked == [NIGHTS[:2], NIGHTS[2:]]
    assert (done, told) == (NIGHTS, [0.0, 2 / 3])
    assert {night: row.rows for night, row in records.items()} == {night: night.day for night in NIGHTS}
    records, done = stage.run_nights({**inputs, NIGHTS[1]: "b"}, work, at_once=2)
    assert (done, asked[2:]) == ([NIGHTS[1]], [[NIGHTS[1]]])
    assert sorted(records) == NIGHTS
    assert stage.run_nights(inputs, work, at_once=5, rebuild=True)[1] == NIGHTS


def test_work_that_was_committed_and_not_recorded_is_recorded_and_not_done(stage: Stage) -> None:
    def find(stale: Mapping[date, str]) -> dict[date, StageOutcome]:
        assert sorted(stale) == NIGHTS
        return {NIGHTS[1]: StageOutcome(2, table="t", delta_version=3)}

    def work(nights: Sequence[date]) -> dict[date, StageOutcome]:
        if NIGHTS[2] in nights:
            raise RuntimeError("killed")
        return {night: StageOutcome(1) for night in nights}

    with pytest.raises(RuntimeError):
        stage.run_nights(dict.fromkeys(NIGHTS, "a"), work, at_once=1, find=find)
    recorded = last_records(stage.settings, "score", "churn")
    assert {night: (row.rows, row.delta_version) for night, row in recorded.items()} == {
        NIGHTS[0]: (1, -1),
        NIGHTS[1]: (2, 3),
    }


def test_what_is_found_again_about_a_night_is_no_news(stage: Stage) -> None:
    inputs = dict.fromkeys(NIGHTS[:2], "a")
    stage.record_changes(
        inputs, {NIGHTS[0]: StageOutcome(1, {"found": 1}), NIGHTS[1]: StageOutcome(1, {"found": 1})}, 4.0
    )
    stage.record_changes(
        inputs, {NIGHTS[0]: StageOutcome(2, {"found": 1}), NIGHTS[1]: StageOutcome(2, {"found": 2})}, 4.0
    )
    recorded = last_records(stage.settings, "score", "churn")
    assert [recorded[night].rows for night in NIGHTS[:2]] == [1, 2]
    assert [recorded[night].seconds for night in NIGHTS[:2]] == [2.0, 2.0]
    stage.record_changes({**inputs, NIGHTS[0]: "b"}, {NIGHTS[0]: StageOutcome(3, {"found": 1})}, 1.0)
    assert last_records(stage.settings, "score", "churn")[NIGHTS[0]].rows == 3
