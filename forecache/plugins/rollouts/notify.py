"""Follow up a change of a model's releases: alerts to people, and the copy on the remote."""

from datetime import datetime, timedelta, timezone

from forecache.base.alert import Alert, Kind, Severity
from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.base.steps import rollout_step
from forecache.operations.replica_errors import report_replica_failure
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.release.follow_lake import follow_lake, has_unsent, is_undecided, mark_sent
from forecache.realtime.release.lake_state import ReleaseState, UnreachableError
from forecache.realtime.release.replicas import push_releases
from forecache.realtime.release.write import lock_releases
from forecache.realtime.rollout.rollout_state import RolloutState
from forecache.serve.store.replicas.sync import open_remote


def distribute_state(
    settings: Settings, folder: ReleaseFolder, state: ReleaseState, what: str, *, now: datetime | None = None
) -> None:
    """Notify people of the rollout, and push a change that the remote does not have; the caller holds the lock.

    If it is killed or fails, the next operation, or the next look of the controller, does it again.

    Args:
        what: The change, in a sentence.

    Raises:
        NotEverywhereError: The change is done here, but not in the lake, or not on the remote.
    """
    if state.rollout is not None:
        notify_of_rollout(settings, state.rollout, now or datetime.now(timezone.utc))
        rollout_step("notified")
    if not has_unsent(folder):
        return
    with report_replica_failure(folder.name, what):
        if is_undecided(folder):
            raise UnreachableError(f"the lake {settings.lake_uri} could not be reached.")
        if settings.store_remote and state.pointer.current is not None:
            push_releases(folder, open_remote(settings.store_remote, settings.storage_options), state)
    mark_sent(folder)


def bring_unsent(settings: Settings, folder: ReleaseFolder) -> None:
    """Bring what was done here to the lake and the remote, before a push or a pull; else nothing needs the lake.

    Raises:
        NotEverywhereError: It cannot be brought there.
    """
    if has_unsent(folder):
        what = f"Releases of {folder.name} have changed."
        with lock_releases(folder, action="push"), report_replica_failure(folder.name, what):
            distribute_state(settings, folder, follow_lake(settings, folder), what)


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
