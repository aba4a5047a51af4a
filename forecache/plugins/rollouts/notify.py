"""Alerts about a rollout: its release was returned, it is paused and needs a person, or it waits for long."""

from datetime import datetime, timedelta

from forecache.base.alert import Alert, Kind, Severity
from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.realtime.rollout.rollout_state import RolloutState


def notify_of_rollout(settings: Settings, state: RolloutState, now: datetime) -> None:
    """Send an alert if the state needs one; an alert that was sent before is not sent again."""
    kind: Kind
    severity: Severity
    if state.stage == "returned" and state.is_bad:
        kind, severity, occasion = "release_returned", "critical", f"{state.release} {state.started_at}"
    elif state.paused and state.step.verdict == "paused":  # also if a look paused it and was killed before its alert
        kind, severity, occasion = "rollout_paused", "warning", f"{state.release} {state.step.since}"
    elif _waits_too_long(state, now):
        kind, severity, occasion = "rollout_waits", "warning", f"{state.release} {state.step.since}"
    else:
        return
    details = {"release": state.release, "stage": state.step.stage, "share": state.step.share}
    for notify in find_hooks("notify"):
        notify(settings, [Alert(kind, state.name, severity, state.why, details, now, occasion)])


def _waits_too_long(state: RolloutState, now: datetime) -> bool:
    lasted = now - datetime.fromisoformat(state.step.since)
    return not (state.is_over or state.paused) and lasted > timedelta(hours=state.plan["alert_after_h"])
