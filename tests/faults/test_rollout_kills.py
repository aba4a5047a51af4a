"""A controller that is killed anywhere, and two of them at once: each row counts once, each step is taken once."""

import signal
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from rollout_jobs import look_often, look_until
from rollout_support import BEGAN, NAME, QUICK, begin, log_rows, state_of, two_releases
from warm import start

from forecache.base.settings import Settings
from forecache.declare import Guards
from forecache.kit.versioned.pointer import read_pointer
from forecache.plugins.rollouts.controller import advance_rollout, running_rollouts
from forecache.plugins.rollouts.count_requests import count_new_requests, step_id
from forecache.plugins.rollouts.step_counts import StepCounts, read_counts
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.rollout_state import RolloutState

pytestmark = [pytest.mark.faults, pytest.mark.slow]
AT = BEGAN + timedelta(minutes=1)
LAST: dict[str, Any] = {"stage": "canary", "share": 0.5, "slow_us": 1e6}


def killed(settings: Settings, step: str, at: datetime = AT) -> bool:
    """Whether a look died at the step; one that never comes there ends."""
    process = start(look_until, settings.home_path, step, at.isoformat())
    process.join(120)
    return bool(process.exitcode == -signal.SIGKILL)


def ended(settings: Settings, at: datetime = AT) -> tuple[RolloutState, Any]:
    found = advance_rollout(settings, NAME, at=at)
    assert found is not None
    return found.state, read_pointer(open_releases(settings, NAME))


@pytest.mark.parametrize("step", ["counted", "state moved", "copied"])
def test_a_look_that_is_killed_takes_a_step_once(settings: Settings, step: str) -> None:
    two_releases(settings)
    begin(settings)
    log_rows(settings, 600, at=BEGAN + timedelta(seconds=1))
    assert killed(settings, step)
    state = state_of(settings) if step == "copied" else ended(settings)[0]
    assert [(each.stage, each.verdict) for each in state.steps] == [("aa", "passed"), ("shadow", "waits")]
    assert sum(state.steps[0].requests) == 600
    again, _ = ended(settings)
    assert len(again.steps) == 2
    assert again.step.requests == (0, 0)


@pytest.mark.parametrize("step", ["counted", "state moved", "pointer moved", "copied", "notified"])
def test_a_look_that_is_killed_as_a_release_takes_over_is_finished_by_the_next(settings: Settings, step: str) -> None:
    two_releases(settings)
    begin(settings, **LAST)
    log_rows(settings, 600, at=BEGAN + timedelta(seconds=1))
    assert killed(settings, step)
    state, pointer = ended(settings)
    assert (state.stage, pointer.current, pointer.bad) == ("done", 2, ())
    assert running_rollouts(settings, [NAME]) == []


@pytest.mark.parametrize("step", ["counted", "state moved", "pointer moved", "copied", "notified"])
def test_a_look_that_is_killed_as_a_release_is_returned_is_finished_by_the_next(settings: Settings, step: str) -> None:
    two_releases(settings)
    begin(settings, **LAST)
    log_rows(settings, 600, at=BEGAN + timedelta(seconds=1), candidate={"late": True})
    assert killed(settings, step)
    assert running_rollouts(settings, [NAME]) == [NAME]
    state, pointer = ended(settings)
    assert (state.stage, pointer.current, pointer.bad) == ("returned", 1, (2,))
    assert running_rollouts(settings, [NAME]) == []


def test_two_controllers_at_once_count_every_row_once_and_take_every_step_once(settings: Settings) -> None:
    two_releases(settings)
    loose = Guards(0.99, 0.99, 0.99, 20.0, 0.99, 0.99)
    begin(settings, replace(QUICK, requests=10_000, guards=loose), **LAST)
    state = state_of(settings)
    processes = [start(look_often, settings.home_path, 12, AT.isoformat()) for _ in range(2)]
    rows = []
    for turn in range(8):
        rows += log_rows(settings, 100, at=BEGAN + timedelta(seconds=1 + turn), first=100 * turn, state=state)
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    after, _ = ended(settings)
    canaries = sum(row["variant"] == "canary" for row in rows)
    assert after.step.requests == (len(rows) - canaries, canaries)
    seen, anew = read_counts(open_releases(settings, NAME), step_id(after)), StepCounts(step_id(after))
    again = count_new_requests(settings, after, anew, now=AT)
    np.testing.assert_allclose(seen.x, again.x, rtol=1e-12)
    np.testing.assert_array_equal(seen.n, again.n)
    assert state.generation < after.generation <= state.generation + 24 + 1  # none was made twice
