"""What may be published: a night that passed its checks in the state that is published, looked at under the lock."""

from dataclasses import replace
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest
from store_tables import NEXT_NIGHT, NIGHT, churn, predictions, record_check, scores, upsert, write_night

from forecache.base.errors import CheckError, ConflictError
from forecache.base.settings import Settings
from forecache.base.steps import publish_step
from forecache.declare import AS_OF, Drift, expect
from forecache.kit.delta.comparison.partition import partition_digests
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import StageRecord, all_records, append_records, records_since
from forecache.lake.quality.verdicts import check_nights
from forecache.operations.publish_night import publish_newest_night, publish_night
from forecache.plugins.cost.stage_costs import describe_unrecorded
from forecache.plugins.lineage.facts import stage_facts
from forecache.plugins.status.project_status import last_nights
from forecache.serve.store import open_store, publish
from forecache.serve.store.encoding.prediction_source import NightSource, open_night

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def record_scores(settings: Settings, night: date) -> None:
    append_records(settings, [StageRecord("score", "churn", night, "in", "predictions_churn", 1, 10, 0.1)])


def test_a_night_that_was_never_checked_is_published_only_where_that_is_asked_for(settings: Settings) -> None:
    write_night(settings, predictions(scores(50)))
    with pytest.raises(CheckError, match="1998-06-30 of table 'predictions_churn' was never checked"):
        publish_night(settings, churn())
    assert open_store(settings, "churn").current() is None
    assert publish_night(settings, churn(), unchecked=True).rows == 50


def test_a_verdict_about_other_rows_of_the_night_does_not_count(settings: Settings) -> None:
    write_night(settings, predictions(scores(50)))
    record_check(settings)
    assert publish_night(settings, churn()).rows == 50
    upsert(settings, predictions({"00001": 0.125}))
    with pytest.raises(CheckError, match="was checked, but has other rows since"):
        publish_night(settings, churn())
    record_check(settings)
    assert publish_night(settings, churn()).details["version"] == 2


def test_the_ledger_has_what_each_publish_took_and_the_cost_says_which_are_missing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=timezone.utc)
    write_night(settings, predictions(scores(50)))
    record_check(settings)
    result = publish_night(settings, churn(), run_id="run-1")
    assert publish_night(settings, churn()).skipped
    [row] = all_records(settings, "publish", "churn")
    assert (row.as_of, row.rows, row.seconds, row.run_id) == (NIGHT, 50, result.seconds, "run-1")
    assert row.details["version"] == 1
    nights = last_nights(settings, datetime.now(timezone.utc))["rows"]
    assert [(each["as_of"], each["stages"], each["rows"]) for each in nights if each["subject"] == "churn"] == [
        (NIGHT.isoformat(), ["publish"], 50)
    ]
    assert describe_unrecorded(settings, [row], long_ago) == []
    assert "publish" not in {fact.stage for fact in stage_facts(settings, [])}, "the manifest tells it"
    upsert(settings, predictions({"00001": 0.125}))
    record_check(settings)

    def fail(*_: object) -> None:
        raise OSError("The disk is full.")

    monkeypatch.setattr("forecache.lake.stage_runner.append_records", fail)
    assert publish_night(settings, churn()).details["version"] == 2, "it is served, whatever becomes of the ledger"
    found = records_since(settings, long_ago)
    assert describe_unrecorded(settings, found, long_ago) == ["What 1 of 2 publishes of churn took is not known."]


def test_a_night_whose_drift_may_hold_it_up_is_published_only_after_that_was_measured(settings: Settings) -> None:
    write_night(settings, predictions(scores(50)))
    record_check(settings)
    blocking = replace(churn(), drift=Drift(blocking=True))
    with pytest.raises(CheckError, match="drift of as-of date 1998-06-30 .* was not measured"):
        publish_night(settings, blocking)
    assert publish_night(settings, churn()).rows == 50


def test_a_night_whose_check_failed_is_refused_and_another_is_not(settings: Settings) -> None:
    write_night(settings, predictions(scores(50)))
    record_check(settings)
    write_night(settings, predictions(scores(200), night=NEXT_NIGHT), night=NEXT_NIGHT)
    record_check(settings, night=NEXT_NIGHT, problem="3 keys are there twice.")
    for unchecked in (False, True):
        with pytest.raises(CheckError, match="failed its check: .*3 keys are there twice.*run the as-of date again"):
            publish_night(settings, churn(), unchecked=unchecked)
    assert publish_night(settings, churn(), night=NEXT_NIGHT.replace(month=6, day=30)).rows == 50


def test_the_night_is_opened_and_approved_under_the_publishers_lock(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_night(settings, predictions(scores(50)))
    approved: list[int] = []

    def at(step: str) -> None:
        if step == "locked" and not approved:
            # Another run scores the night between this publish's start and its look at the table.
            upsert(settings, predictions({"00001": 0.125}))

    def approve(source: NightSource) -> None:
        approved.append(source.source.delta_version)
        with pytest.raises(ConflictError, match=r"being changed by process \d+ \(publish\)"):
            open_store(settings, "churn").rollback()

    monkeypatch.setattr(publish_step, "on_step", at)
    published = publish(settings, churn(), approve=approve)
    assert approved == [published.delta_version] == [1]
    with open_store(settings, "churn").snapshot() as snapshot:
        assert b"0.125" in (snapshot.get(b"00001") or b"")


@pytest.mark.slow
def test_what_spark_checked_is_what_is_published(spark: "SparkSession", settings: Settings) -> None:
    def check() -> None:
        table = open_table(settings, "predictions_churn")
        rules = [expect("expect_column_values_to_be_unique", column="customer_id")]
        states, version = partition_digests(table, AS_OF, [NIGHT]), table.version()
        check_nights(settings, "predictions_churn", rules, column=AS_OF, states=states, version=version)

    write_night(settings, predictions(scores(50)))
    check()
    assert publish_night(settings, churn()).rows == 50
    upsert(settings, predictions({"00001": 0.125}))
    with pytest.raises(CheckError, match="has other rows since"):
        publish_night(settings, churn())
    check()
    assert publish_night(settings, churn()).details["version"] == 2


def test_a_newer_date_that_another_run_has_not_checked_yet_or_that_failed_does_not_hold_up_the_newest_that_passed(
    settings: Settings,
) -> None:
    write_night(settings, predictions(scores(50)))
    record_check(settings)
    record_scores(settings, NIGHT)
    write_night(settings, predictions(scores(200), night=NEXT_NIGHT), night=NEXT_NIGHT)
    record_scores(settings, NEXT_NIGHT)
    assert publish_newest_night(settings, churn()).nights == (NIGHT,)
    record_check(settings, night=NEXT_NIGHT, problem="3 keys are there twice.")
    assert publish_newest_night(settings, churn()).nights == (NIGHT,)
    record_check(settings, night=NEXT_NIGHT)
    published = publish_newest_night(settings, churn())
    assert (published.nights, published.rows) == ((NEXT_NIGHT,), 200)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_date_is_not_published_over_a_newer_one_that_another_run_published_meanwhile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    write_night(settings, predictions(scores(50)))
    record_check(settings)
    record_scores(settings, NIGHT)

    def after_another_run(*arguments: Any, **more: Any) -> Any:
        monkeypatch.undo()
        write_night(settings, predictions(scores(200), night=NEXT_NIGHT), night=NEXT_NIGHT)
        record_scores(settings, NEXT_NIGHT)
        record_check(settings, night=NEXT_NIGHT)
        (publish_night if recorded else publish)(settings, churn(), night=NEXT_NIGHT)
        return publish_night(*arguments, **more)

    monkeypatch.setattr("forecache.operations.publish_night.publish_night", after_another_run)
    assert publish_newest_night(settings, churn()).skipped
    current = open_store(settings, "churn").current()
    assert current is not None
    assert (current.as_of, current.rows) == (NEXT_NIGHT.isoformat(), 200)


def test_a_date_is_not_published_over_a_newer_one_that_is_being_scored_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for night in (NIGHT, NEXT_NIGHT):
        write_night(settings, predictions(scores(50), night=night), night=night)
        record_check(settings, night=night)
        record_scores(settings, night)
    assert publish_newest_night(settings, churn()).nights == (NEXT_NIGHT,)
    upsert(settings, predictions({"00001": 0.125}, night=NEXT_NIGHT))
    said, opened = list[str](), list[date | None]()

    def open_counted(*arguments: Any) -> Any:
        opened.append(arguments[2])
        return open_night(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("forecache.operations.publish_night.open_night", open_counted)
        assert publish_newest_night(settings, churn(), progress=lambda what, _: said.append(what)).skipped
    assert set(opened) == {NEXT_NIGHT}, "earlier dates are not looked at"
    assert f"churn is served as of {NEXT_NIGHT}; the rows of {NEXT_NIGHT} and of later dates" in said[-1]
    current = open_store(settings, "churn").current()
    assert current is not None
    assert (current.version, current.as_of) == (1, NEXT_NIGHT.isoformat())
    record_check(settings, night=NEXT_NIGHT)
    assert publish_newest_night(settings, churn()).details["version"] == 2
