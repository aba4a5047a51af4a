"""The controller of rollouts, over request logs as replicas write them: what moves on, what is returned, and why."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from release_support import make_release
from rollout_support import BEGAN, LOG, NAME, QUICK, begin, log_rows, state_of, two_releases

from forecache.errors import InputError, NotFoundError
from forecache.lake.delta.tables import append_rows
from forecache.operations.rollout import controller
from forecache.operations.rollout.controller import by_hand, look, running_rollouts
from forecache.operations.rollout.count import counted, step_id
from forecache.operations.rollout.outcomes import outcomes
from forecache.operations.rollout.seen import GUARD, Seen, read_seen
from forecache.pipeline import Guards, Outcome
from forecache.realtime.log.commit.keep import merge_small
from forecache.realtime.release.folder import ReleaseFolder, open_releases, read_current, write_current
from forecache.realtime.release.replicas import is_behind, pull_releases, push_releases
from forecache.realtime.rollout.state import RolloutState, rollout_file
from forecache.settings import Settings
from forecache.store.replicas.sync import open_remote

MINUTE = timedelta(minutes=1)
LOOSE = Guards(0.99, 0.99, 0.99, 20.0, 0.99, 0.99)


def looked(settings: Settings, *, after: timedelta = MINUTE) -> RolloutState:
    """The state after a look some time after the present step began."""
    found = look(settings, NAME, at=datetime.fromisoformat(state_of(settings).step.since) + after)
    assert found is not None
    return found.state


def answered(settings: Settings, count: int = 600, **told: Any) -> None:
    """Requests of the present step, from a second after it began."""
    log_rows(settings, count, at=datetime.fromisoformat(state_of(settings).step.since) + timedelta(seconds=1), **told)


def until(settings: Settings, stage: str) -> RolloutState:
    """Answer well until a stage."""
    for turn in range(5):
        if state_of(settings).stage == stage:
            break
        answered(settings, first=1000 * turn)
        looked(settings)
    state = state_of(settings)
    assert state.stage == stage, state.why
    return state


def test_a_good_release_goes_through_all_steps_and_answers_all(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    stages = []
    for turn in range(6):
        state = state_of(settings)
        if state.is_over:
            break
        stages.append((state.stage, state.share))
        answered(settings, first=1000 * turn)
        looked(settings)
    assert stages == [("aa", 0.5), ("shadow", 0.5), ("canary", 0.2), ("canary", 0.5)], state_of(settings).why
    state, pointer = state_of(settings), read_current(open_releases(settings, NAME))
    assert (state.stage, [step.verdict for step in state.steps]) == ("done", ["passed"] * 4)
    assert (pointer.current, pointer.bad) == (2, ())
    assert len(state.edges) == 9
    assert state.slow_us == 20_000.0
    assert state.steps[1].shown["same_first_share"] == 1.0


@pytest.mark.parametrize(
    ("told", "guard"),
    [
        ({"why": "failed"}, "without_model"),
        ({"release": 1}, "without_model"),  # some replica cannot load it
        ({"late": True}, "late"),
        ({"total_us": 30_000}, "slow"),
        ({"score": 1.5}, "score_level"),
    ],
)
def test_a_release_that_does_harm_is_returned_and_marked_and_says_why(
    settings: Settings, told: dict[str, Any], guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[Any] = []
    monkeypatch.setattr(controller, "notify", lambda settings, more: alerts.extend(more))
    two_releases(settings)
    begin(settings)
    until(settings, "canary")
    answered(settings, first=9000, candidate=told)
    state, pointer = looked(settings), read_current(open_releases(settings, NAME))
    assert state.stage == "returned"
    assert [each.guard for each in state.step.compared if each.harmful][0] == guard
    assert (pointer.current, pointer.bad) == (1, (2,))
    assert "Release 2 does harm" in state.why
    [alert] = [each for each in alerts if each.kind == "release_returned"]
    assert (alert.name, alert.summary) == (NAME, state.why)


def test_a_candidate_whose_shadow_fails_never_answers_anybody(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    until(settings, "shadow")
    answered(settings, 2000, first=5000, candidate={"why": "refused"})
    assert looked(settings).stage == "returned"
    assert all(step.stage != "canary" for step in state_of(settings).steps)


def test_without_requests_nothing_moves_on_however_long_it_takes(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    for days in (1, 30):
        state = looked(settings, after=timedelta(days=days))
        assert (state.stage, state.step.verdict) == ("aa", "waits")
        assert "without requests nothing moves on" in state.why
    answered(settings, 100)
    assert "of 100 requests of" in looked(settings, after=timedelta(days=31)).why


def test_a_step_lasts_as_long_as_is_declared(settings: Settings) -> None:
    two_releases(settings)
    begin(settings, replace(QUICK, hours=2.0))
    answered(settings)
    assert "lasts until 2026-03-01T10:00:00" in looked(settings).why
    assert looked(settings, after=timedelta(hours=2)).stage == "shadow"


def test_arms_of_one_release_that_differ_pause_it_and_a_person_resumes_it(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    state = state_of(settings)
    answered(settings, state=replace(state, stage="canary"), candidate={"late": True, "release": 1})
    rows = [{**row, "arm": "aa" if row["arm"] == "canary" else "current"} for row in _rows(settings)]
    _replace_log(settings, rows)
    state = looked(settings)
    assert state.paused
    assert "Two arms of the same release differ: late answers" in state.why
    assert looked(settings).generation == state.generation
    resumed = by_hand(settings, NAME, "resume", "the clock was wrong")
    assert (resumed.paused, resumed.stage) == (False, "aa")
    with pytest.raises(InputError, match="not paused already"):
        by_hand(settings, NAME, "resume", "")


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
    seen = read_seen(folder, step_id(state))
    anew = counted(settings, state, Seen(step_id(state)), now=BEGAN + MINUTE)
    for name in ("buckets", "n", "x", "times"):
        np.testing.assert_allclose(getattr(seen, name), getattr(anew, name), rtol=1e-12)
    assert seen.version == anew.version
    canaries = [row for row in rows if row["arm"] == "canary"]
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
        if generator.random() < (0.2 if row["arm"] == "canary" else 0.5)
    ]
    append_rows(settings, "orders", pa.Table.from_pylist(bought))
    assert "outcomes of 0 of 300 requests are known" in looked(settings, after=timedelta(minutes=30)).why
    state = looked(settings, after=timedelta(hours=2))
    assert state.stage == "returned"
    [compared] = [each for each in state.step.compared if each.guard == "outcome"]
    canaries = [row["request_id"] for row in rows if row["arm"] == "canary"]
    assert compared.candidate == pytest.approx(
        len({each["request_id"] for each in bought} & set(canaries)) / len(canaries)
    )
    assert compared.harmful


def test_a_person_pauses_returns_and_finishes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    alerts: list[Any] = []
    monkeypatch.setattr(controller, "notify", lambda settings, more: alerts.extend(more))
    two_releases(settings)
    folder = open_releases(settings, NAME)
    begin(settings)
    assert by_hand(settings, NAME, "pause", "a sale").paused
    answered(settings)
    assert looked(settings).stage == "aa"
    assert by_hand(settings, NAME, "finish", "urgent").stage == "done"
    assert read_current(folder).current == 2
    with pytest.raises(NotFoundError, match="No rollout of ranking is under way"):
        by_hand(settings, NAME, "return", "")
    write_current(folder, replace(read_current(folder), current=1))
    begin(settings)
    assert by_hand(settings, NAME, "return", "complaints").why == "complaints"
    assert [(each.kind, each.summary) for each in alerts] == [("release_returned", "complaints")]
    assert read_current(folder).bad == (2,)


def test_a_release_that_is_made_current_by_hand_ends_it_without_blame(settings: Settings) -> None:
    two_releases(settings)
    folder = open_releases(settings, NAME)
    begin(settings)
    write_current(folder, replace(read_current(folder), current=2, generation=9))
    assert looked(settings).stage == "done"
    write_current(folder, replace(read_current(folder), current=1, generation=10))
    begin(settings)
    write_current(folder, replace(read_current(folder), current=7, generation=11))
    state = looked(settings)
    assert (state.stage, state.why) == ("returned", "Release 7 was made current meanwhile.")
    assert read_current(folder).bad == ()


def test_requests_while_the_candidate_was_being_loaded_say_nothing_of_it_and_their_keys_are_no_loss(
    settings: Settings,
) -> None:
    two_releases(settings)
    begin(settings, replace(QUICK, requests=10_000), stage="canary", share=0.5, slow_us=1e6)
    answered(settings, 1000, candidate={"arm": "loading", "release": 1})
    state = looked(settings)
    assert (state.stage, state.paused, state.step.requests[1]) == ("canary", False, 0)
    log_rows(settings, 400, at=BEGAN + timedelta(seconds=10), first=1000)
    assert looked(settings).step.compared[0].candidate == 0.0


def test_an_arm_whose_keys_are_missing_in_the_log_pauses_it(settings: Settings) -> None:
    two_releases(settings)
    begin(settings, replace(QUICK, requests=10_000), stage="canary", share=0.5, slow_us=1e6)
    answered(settings, 3000, keys=4000)
    rows = [row for row in _rows(settings) if row["arm"] == "current" or int(row["key"]) % 2]
    _replace_log(settings, rows)
    state = looked(settings)
    assert state.paused, state.step
    assert "requests of one arm are missing in the log" in state.why


def test_guards_that_are_left_out_are_not_looked_at(settings: Settings) -> None:
    two_releases(settings)
    begin(settings, replace(QUICK, guards=Guards(late=None, score_level=None, score_spread=None, slow=None)))
    state = looked(settings)
    assert [each.guard for each in state.step.compared] == ["without_model"]


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
        found = outcomes(settings, Outcome(table, "bought"), np.array(["r2", "r3"]))
        assert found.tolist() == [0.0, 1.0], table
    state = looked(settings, after=timedelta(hours=2))
    assert "cannot be read" not in state.why
    seen = read_seen(open_releases(settings, NAME), step_id(state))
    assert (seen.n[:, :, GUARD["outcome"]].sum(), seen.x[:, :, GUARD["outcome"]].sum()) == (600, 1)


def test_a_release_that_was_removed_is_returned_instead_of_waiting_for_ever(settings: Settings) -> None:
    import shutil

    two_releases(settings)
    begin(settings, stage="shadow", share=0.5)
    folder = open_releases(settings, NAME)
    shutil.rmtree(folder.release(2))
    state = looked(settings)
    assert (state.stage, "Release 2 is gone" in state.why) == ("returned", True), state.why
    assert read_current(folder).current == 1


def test_a_pause_is_told_although_the_look_that_found_its_reason_was_killed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[Any] = []
    two_releases(settings)
    begin(settings, replace(QUICK, requests=10_000), stage="canary", share=0.5, slow_us=1e6)
    answered(settings, 3000, keys=4000)
    _replace_log(settings, [row for row in _rows(settings) if row["arm"] == "current" or int(row["key"]) % 2])

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(controller, "notify", killed)
    with pytest.raises(KeyboardInterrupt):
        looked(settings)
    assert state_of(settings).paused
    monkeypatch.setattr(controller, "notify", lambda settings, more: alerts.extend(more))
    looked(settings)
    assert [each.kind for each in alerts] == ["rollout_paused"]
    by_hand(settings, NAME, "resume", "")
    by_hand(settings, NAME, "pause", "a sale")
    looked(settings)
    assert len(alerts) == 1


def test_a_state_that_cannot_be_read_keeps_no_release_and_no_other_rollout_from_going_on(
    settings: Settings, tmp_path: Path
) -> None:
    two_releases(settings)
    begin(settings)
    folder, remote = open_releases(settings, NAME), open_remote(str(tmp_path / "remote"), {})
    push_releases(folder, remote)
    target = f".realtime/{NAME}/ROLLOUT"
    written = remote.read(target)
    assert written is not None
    remote.write(target, b"{}")
    replica = ReleaseFolder(tmp_path / "replica" / NAME)
    assert pull_releases(replica, remote)["release"] == 1
    assert is_behind(folder, remote)
    push_releases(folder, remote)
    again = remote.read(target)
    assert again is not None
    assert again[0] == written[0]
    rollout_file(folder).write_bytes(b"{}")
    assert running_rollouts(settings, [NAME]) == [NAME]
    make_release(settings, version=3, log=LOG)
    assert read_current(folder).current == 3


def test_a_candidate_has_the_cache_that_it_declares(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from forecache.realtime.cache import CachedPath
    from forecache.realtime.rollout.apart import Candidate, NoPath
    from forecache.realtime.workers import path as worker_path

    monkeypatch.setattr(worker_path, "open_worker_path", lambda *_, **__: NoPath())
    two_releases(settings, cache_bytes=1 << 20)
    counters, loop = SimpleNamespace(add=lambda *_: None), SimpleNamespace()
    found = []
    for number in (1, 2):
        candidate = Candidate(settings, open_releases(settings, NAME), number, loop=loop, counters=counters)  # type: ignore[arg-type]
        candidate._open()
        found.append(isinstance(candidate.path, CachedPath))
        candidate.close()
    assert found == [False, True]


def _rows(settings: Settings) -> list[dict[str, Any]]:
    from forecache.realtime.log.read import read_log

    return [row for batch in read_log(settings, NAME) for row in batch.to_pylist()]


def _replace_log(settings: Settings, rows: list[dict[str, Any]]) -> None:
    import shutil

    from forecache.realtime.log.record import schema, table_of

    shutil.rmtree(settings.table_uri(table_of(NAME)))
    append_rows(settings, table_of(NAME), pa.Table.from_pylist(rows, schema=schema()), partition_by=("day",))
