"""A rollout that stays at one step: people are told once what it waits for."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from rollout_support import NAME, QUICK, answered, begin, looked, two_releases

from forecache.base.settings import Settings
from forecache.plugins.alerts import notify as tell
from forecache.plugins.rollouts.controller import apply_manual_action


def test_a_step_that_waits_longer_than_declared_is_told_with_what_it_waits_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts: list[Any] = []
    monkeypatch.setattr(tell, "notify", lambda settings, more: alerts.extend(more))
    two_releases(settings)
    begin(settings, replace(QUICK, requests=10_000, alert_after_h=48.0))
    answered(settings, 200)
    looked(settings, after=timedelta(hours=47))
    assert not alerts
    state = looked(settings, after=timedelta(hours=49))
    looked(settings, after=timedelta(hours=50))
    assert state.stage == "aa"
    assert {(each.kind, each.severity, each.summary) for each in alerts} == {
        ("rollout_waits", "warning", state.step.why)
    }
    assert "of 10,000 requests" in state.step.why
    assert len({each.subject for each in alerts}) == 1, "the same alert, which is sent once"
    apply_manual_action(settings, NAME, "pause", "a sale")
    alerts.clear()
    looked(settings, after=timedelta(hours=60))
    assert not alerts, "somebody looks after it"
