"""What the controller of rollouts counts: each row of the present step once, and outcomes when they are known."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from rollout_support import (
    BEGAN,
    MINUTE,
    NAME,
    QUICK,
    answered,
    begin,
    log_rows,
    logged_rows,
    looked,
    replace_log,
    state_of,
    two_releases,
)

from forecache.base.settings import Settings
from forecache.declare import Guards, Outcome
from forecache.kit.delta.tables import append_rows
from forecache.plugins.rollouts.count_requests import count_new_requests, read_outcomes, step_id
from forecache.plugins.rollouts.step_counts import GUARD, StepCounts, read_counts
from forecache.realtime.log.commit_loop import merge_small
from forecache.realtime.release.folder import open_releases

LOOSE = Guards(0.99, 0.99, 0.99, 20.0, 0.99, 0.99, 0.99)


def test_rows_from_before_every_replica_knew_the_step_are_not_compared(settings: Settings) -> None:
    two_releases(settings)
    begin(settings, stage="canary", share=0.5)
    state = state_of(settings)
    answered(settings, 300, state=replace(state, share=0.2))
    state = looked(settings)
    assert sum(state.steps[0].requests) < 20  # those after the last one by the earlier step
    log_rows(settings, 600, at=BEGAN + timedelta(seconds=10), first=300)
    state = looked(settings)
    assert sum(state.steps[0].requests) - 600 in range(20)


def test_rows_are_counted_once_however_often_it_looks_and_as_by_one_who_reads_all(settings: Settings) -> None:
    two_releases(settings)
    begin(
        settings,
        replace(QUICK, requests=10_000, guards=LOOSE),
        stage="canary",
        share=0.5,
        edges=(0.0,) * 9,
        slow_us=500.0,
    )
    rows = []
    for first in (0, 200, 400):
        rows += log_rows(settings, 200, at=BEGAN + timedelta(seconds=1 + first), first=first, candidate={"late": True})
        looked(settings)
        looked(settings)
    state = state_of(settings)
    folder = open_releases(settings, NAME)
    seen = read_counts(folder, step_id(state))
    anew = count_new_requests(settings, state, StepCounts(step_id(state)), now=BEGAN + MINUTE)
    for name in ("buckets", "n", "x", "times"):
        np.testing.assert_allclose(getattr(seen, name), getattr(anew, name), rtol=1e-12)
    assert seen.version == anew.version
    canaries = [row for row in rows if row["variant"] == "canary"]
    assert seen.n[:, :, GUARD["late"]].sum(1).tolist() == [600 - len(canaries), len(canaries)]
    assert seen.x[1, :, GUARD["slow"]].sum() == sum(row["total_us"] > 500 for row in canaries)
    keys = {row["key"] for row in rows}
    assert len(seen.buckets) == len(keys)


def test_rows_whose_files_are_merged_meanwhile_are_counted_once(settings: Settings) -> None:
    two_releases(settings)
    begin(settings, replace(QUICK, requests=10_000))
    for first in (0, 200):
        log_rows(settings, 200, at=BEGAN + timedelta(seconds=1 + first), first=first)
    assert sum(looked(settings).step.requests) == 400
    log_rows(settings, 100, at=BEGAN + timedelta(seconds=500), first=400)
    assert merge_small(settings, NAME, today=BEGAN.date() + timedelta(days=1)) == 3
    assert sum(looked(settings).step.requests) == 500
    log_rows(settings, 100, at=BEGAN + timedelta(seconds=600), first=500)
    assert sum(looked(settings).step.requests) == 600


def test_what_was_counted_is_counted_anew_where_its_file_is_damaged(settings: Settings) -> None:
    two_releases(settings)
    begin(settings, replace(QUICK, requests=10_000))
    answered(settings, 300)
    before = looked(settings)
    file = open_releases(settings, NAME).root / "ROLLOUT.seen"
    file.write_bytes(file.read_bytes()[:-3])
    after = looked(settings)
    assert (after.step.requests, after.step.compared) == (before.step.requests, before.step.compared)
    file.unlink()
    assert looked(settings).step.requests == before.step.requests


def test_outcomes_count_once_their_horizon_has_passed_and_a_loss_returns(settings: Settings) -> None:
    two_releases(settings)
    outcome = Outcome("orders", "bought", horizon_h=1.0, finds=0.3)
    begin(settings, replace(QUICK, outcome=outcome, requests=300), stage="canary", share=0.5)
    rows = log_rows(settings, 4000, at=BEGAN + timedelta(seconds=1), keys=1500)
    generator = np.random.default_rng(3)
    bought = [
        {"request_id": row["request_id"], "bought": 1.0}
        for row in rows
        if generator.random() < (0.2 if row["variant"] == "canary" else 0.5)
    ]
    append_rows(settings, "orders", pa.Table.from_pylist(bought))
    assert "outcomes of 0 of 300 requests are known" in looked(settings, after=timedelta(minutes=30)).why
    state = looked(settings, after=timedelta(hours=2))
    assert state.stage == "returned"
    [compared] = [each for each in state.step.compared if each.guard == "outcome"]
    canaries = [row["request_id"] for row in rows if row["variant"] == "canary"]
    assert compared.candidate == pytest.approx(
        len({each["request_id"] for each in bought} & set(canaries)) / len(canaries)
    )
    assert compared.harmful


def test_requests_while_the_candidate_was_being_loaded_say_nothing_of_it_and_their_keys_are_no_loss(
    settings: Settings,
) -> None:
    two_releases(settings)
    begin(settings, replace(QUICK, requests=10_000), stage="canary", share=0.5, slow_us=1e6)
    answered(settings, 1000, candidate={"variant": "loading", "release": 1})
    state = looked(settings)
    assert (state.stage, state.paused, state.step.requests[1]) == ("canary", False, 0)
    log_rows(settings, 400, at=BEGAN + timedelta(seconds=10), first=1000)
    assert looked(settings).step.compared[0].candidate == 0.0


def test_an_arm_whose_keys_are_missing_in_the_log_pauses_it(settings: Settings) -> None:
    two_releases(settings)
    begin(settings, replace(QUICK, requests=10_000), stage="canary", share=0.5, slow_us=1e6)
    answered(settings, 3000, keys=4000)
    rows = [row for row in logged_rows(settings) if row["variant"] != "canary" or int(row["key"]) % 2]
    replace_log(settings, rows)
    state = looked(settings)
    assert state.paused, state.step
    assert "requests of one variant are missing in the log" in state.why


def test_outcomes_that_cannot_be_read_do_not_keep_the_other_guards_from_judging(settings: Settings) -> None:
    two_releases(settings)
    plan = replace(QUICK, outcome=Outcome("orders", "bought", horizon_h=1.0))
    begin(settings, plan, stage="canary", share=0.5, slow_us=1e6)
    answered(settings)
    state = looked(settings, after=timedelta(hours=2))
    assert (state.stage, "The outcomes cannot be read" in state.why) == ("canary", True), state.why
    answered(settings, 2000, first=9000, candidate={"late": True})
    assert looked(settings, after=timedelta(hours=2)).stage == "returned"


def test_outcomes_that_could_not_be_read_are_counted_when_they_can(settings: Settings) -> None:
    two_releases(settings)
    plan = replace(QUICK, outcome=Outcome("orders", "bought", horizon_h=1.0))
    begin(settings, plan, stage="canary", share=0.5, slow_us=1e6)
    answered(settings)
    looked(settings, after=timedelta(hours=2))
    append_rows(settings, "orders", pa.Table.from_pylist([{"request_id": "r3", "bought": 1.0}]))
    for table in ("orders", settings.table_uri("orders"), f"file://{settings.table_uri('orders')}"):
        found = read_outcomes(settings, Outcome(table, "bought"), np.array(["r2", "r3"]))
        assert found.tolist() == [0.0, 1.0], table
    state = looked(settings, after=timedelta(hours=2))
    assert "cannot be read" not in state.why
    seen = read_counts(open_releases(settings, NAME), step_id(state))
    assert (seen.n[:, :, GUARD["outcome"]].sum(), seen.x[:, :, GUARD["outcome"]].sum()) == (600, 1)
