"""The controller of rollouts, over request logs as replicas write them: what moves on, what is returned, and why."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from release_support import make_release, move_state
from rollout_support import (
    LOG,
    NAME,
    QUICK,
    answered,
    begin,
    logged_rows,
    looked,
    replace_log,
    state_of,
    two_releases,
    until,
)

from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare import Guards
from forecache.kit.versioned.pointer import read_pointer
from forecache.operations.release import roll_back_release
from forecache.plugins.alerts import notify as tell
from forecache.plugins.rollouts.controller import apply_manual_action, running_rollouts
from forecache.realtime.release.folder import ReleaseFolder, open_releases
from forecache.realtime.release.lake_state import ReleaseState, make_current
from forecache.realtime.release.replicas import pull_releases, push_releases
from forecache.realtime.release.rollout_state import rollout_file
from forecache.serve.store.remote import open_remote


def point(settings: Settings, **changes: Any) -> ReleaseState:
    """Change the pointer in the lake, as another installation may."""
    return move_state(settings, NAME, lambda state: replace(state, pointer=replace(state.pointer, **changes)))


def test_a_good_release_goes_through_all_steps_and_answers_all(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    stages = []
    for turn in range(6):
        state = state_of(settings)
        if state.is_over:
            break
        stages.append((state.stage, state.share))
        answered(settings, 1200, first=2000 * turn)
        looked(settings)
    assert stages == [("aa", 0.5), ("shadow", 0.5), ("canary", 0.2), ("canary", 0.5)], state_of(settings).why
    state, pointer = state_of(settings), read_pointer(open_releases(settings, NAME))
    assert (state.stage, [step.verdict for step in state.steps]) == ("done", ["passed"] * 4)
    assert (pointer.current, pointer.bad) == (2, ())
    assert len(state.edges) == 9
    assert state.slow_us == 20_000.0
    assert state.steps[1].shown["same_first_share"] == 1.0


@pytest.mark.parametrize(
    ("told", "guard"),
    [
        ({"fallback_reason": "failed"}, "without_model"),
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
    monkeypatch.setattr(tell, "notify", lambda settings, more: alerts.extend(more))
    two_releases(settings)
    begin(settings)
    until(settings, "canary")
    answered(settings, first=9000, candidate=told)
    state, pointer = looked(settings), read_pointer(open_releases(settings, NAME))
    assert state.stage == "returned"
    assert [each.guard for each in state.step.compared if each.harmful][0] == guard
    assert (pointer.current, pointer.bad) == (1, (2,))
    assert "Release 2 does harm" in state.why
    [alert] = [each for each in alerts if each.kind == "release_returned"]
    assert (alert.name, alert.summary) == (NAME, state.why)


def test_an_equal_release_is_not_returned_for_the_way_to_its_processes_on_a_busy_machine(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    until(settings, "canary")
    busy = {"total_us": 36_000, "late": True}
    answered(settings, 3000, first=9000, candidate=busy, control=busy)
    state = looked(settings)
    assert (state.steps[2].verdict, state.stage) == ("passed", "canary"), state.why
    assert {each.guard: each.current for each in state.steps[2].compared}["slow"] == 1.0


def test_a_candidate_that_is_slower_than_the_control_is_returned(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    until(settings, "canary")
    answered(settings, 3000, first=9000, candidate={"total_us": 36_000}, control={"total_us": 9_000})
    assert looked(settings).stage == "returned"


def test_without_a_control_a_canary_waits_since_nothing_is_known_of_its_times(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    until(settings, "canary")
    answered(settings, 3000, first=9000, candidate={"total_us": 36_000}, control={"variant": "current"})
    state = looked(settings)
    assert (state.stage, state.step.verdict) == ("canary", "waits")
    assert "0 of 100 requests of the current release, placed as the candidate is, are in the log" in state.why


def test_a_candidate_whose_shadow_fails_never_answers_anybody(settings: Settings) -> None:
    two_releases(settings)
    begin(settings)
    until(settings, "shadow")
    answered(settings, 2000, first=5000, candidate={"fallback_reason": "refused"})
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
    rows = [{**row, "variant": "aa" if row["variant"] == "canary" else "current"} for row in logged_rows(settings)]
    replace_log(settings, rows)
    state = looked(settings)
    assert state.paused
    assert "Two variants of the same release differ: late answers" in state.why
    assert looked(settings).generation == state.generation
    resumed = apply_manual_action(settings, NAME, "resume", "the clock was wrong")
    assert (resumed.paused, resumed.stage) == (False, "aa")
    with pytest.raises(InputError, match="not paused already"):
        apply_manual_action(settings, NAME, "resume", "")


def test_a_person_pauses_returns_and_finishes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    alerts: list[Any] = []
    monkeypatch.setattr(tell, "notify", lambda settings, more: alerts.extend(more))
    two_releases(settings)
    folder = open_releases(settings, NAME)
    begin(settings)
    assert apply_manual_action(settings, NAME, "pause", "a sale").paused
    answered(settings)
    assert looked(settings).stage == "aa"
    assert apply_manual_action(settings, NAME, "finish", "urgent").stage == "done"
    assert read_pointer(folder).current == 2
    with pytest.raises(NotFoundError, match="No rollout of ranking is under way"):
        apply_manual_action(settings, NAME, "return", "")
    point(settings, current=1)
    begin(settings)
    assert apply_manual_action(settings, NAME, "return", "complaints").why == "complaints"
    assert [(each.kind, each.summary) for each in alerts] == [("release_returned", "complaints")]
    assert read_pointer(folder).bad == (2,)


def test_a_release_that_is_made_current_by_hand_ends_it_without_blame(settings: Settings) -> None:
    two_releases(settings)
    folder = open_releases(settings, NAME)
    begin(settings)
    point(settings, current=2)
    assert looked(settings).stage == "done"
    point(settings, current=1)
    begin(settings)
    point(settings, current=7)
    state = looked(settings)
    assert (state.stage, state.why) == ("returned", "Release 7 was made current meanwhile.")
    assert read_pointer(folder).bad == ()


@pytest.mark.parametrize("at_once", [True, False], ids=["current meanwhile", "rolled out"])
def test_a_candidate_that_was_rolled_back_is_never_made_current_by_its_requests(
    settings: Settings, at_once: bool
) -> None:
    two_releases(settings)
    folder = open_releases(settings, NAME)
    begin(settings, stage="canary", share=0.5, slow_us=1e6)
    answered(settings)  # as well as the last step asks for
    if at_once:
        move_state(settings, NAME, lambda state: make_current(state, 2, NAME))
    moved = roll_back_release(settings, NAME, None if at_once else 1)
    assert (moved.current, moved.bad) == (1, (2,))
    assert state_of(settings).is_over
    assert looked(settings).is_over
    assert (read_pointer(folder).current, read_pointer(folder).bad) == (1, (2,))
    assert running_rollouts(settings, [NAME]) == []


def test_a_rollout_whose_candidate_is_marked_as_bad_by_the_pointer_is_returned(settings: Settings) -> None:
    two_releases(settings)
    folder = open_releases(settings, NAME)
    begin(settings, stage="canary", share=0.5, slow_us=1e6)
    answered(settings)
    point(settings, current=1, bad=(2,))
    state = looked(settings)
    assert (state.stage, state.why) == ("returned", "Release 2 was rolled back.")
    assert (read_pointer(folder).current, read_pointer(folder).bad) == (1, (2,))


def test_guards_that_are_left_out_are_not_looked_at(settings: Settings) -> None:
    two_releases(settings)
    begin(settings, replace(QUICK, guards=Guards(late=None, score_level=None, score_spread=None, slow=None)))
    state = looked(settings)
    assert [each.guard for each in state.step.compared] == ["without_model"]


def test_a_release_that_was_removed_is_returned_instead_of_waiting_for_ever(settings: Settings) -> None:
    import shutil

    two_releases(settings)
    begin(settings, stage="shadow", share=0.5)
    folder = open_releases(settings, NAME)
    shutil.rmtree(folder.release(2))
    shutil.rmtree(Path(settings.lake_uri) / ".realtime" / NAME / "releases/00000002")
    state = looked(settings)
    assert (state.stage, "Release 2 is gone" in state.why) == ("returned", True), state.why
    assert read_pointer(folder).current == 1


def test_a_pause_is_told_although_the_look_that_found_its_reason_was_killed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[Any] = []
    two_releases(settings)
    begin(settings, replace(QUICK, requests=10_000), stage="canary", share=0.5, slow_us=1e6)
    answered(settings, 3000, keys=4000)
    replace_log(settings, [row for row in logged_rows(settings) if row["variant"] != "canary" or int(row["key"]) % 2])

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tell, "notify", killed)
    with pytest.raises(KeyboardInterrupt):
        looked(settings)
    assert state_of(settings).paused
    monkeypatch.setattr(tell, "notify", lambda settings, more: alerts.extend(more))
    looked(settings)
    assert [each.kind for each in alerts] == ["rollout_paused"]
    apply_manual_action(settings, NAME, "resume", "")
    apply_manual_action(settings, NAME, "pause", "a sale")
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
    push_releases(folder, remote)
    again = remote.read(target)
    assert again is not None
    assert again[0] == written[0]
    rollout_file(folder).write_bytes(b"{}")
    assert running_rollouts(settings, [NAME]) == [NAME]
    make_release(settings, version=3, log=LOG)
    assert read_pointer(folder).current == 3


def test_a_candidate_has_the_cache_that_it_declares(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from forecache.plugins.rollouts.follow_rollouts import CandidateProcess, UnavailablePath
    from forecache.plugins.score_cache.cached_path import CachedPath
    from forecache.realtime.workers import worker_path as worker_path

    monkeypatch.setattr(worker_path, "open_worker_path", lambda *_, **__: UnavailablePath())
    two_releases(settings, cache_bytes=1 << 20)
    counters, loop = SimpleNamespace(add=lambda *_: None), SimpleNamespace()
    found = []
    for number in (1, 2):
        candidate = CandidateProcess(settings, open_releases(settings, NAME), number, loop=loop, counters=counters)  # type: ignore[arg-type]
        candidate._open()
        found.append(isinstance(candidate.path, CachedPath))
        candidate.close()
    assert found == [False, True]
