"""Notify receivers of alerts: record the alerts, then send each receiver the notices that wait for it."""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from traceback import format_tb
from urllib.parse import quote

from forecache.base.alert import Alert, Kind, Subject
from forecache.base.errors import CheckError, ConflictError, ForecacheError
from forecache.base.settings import Settings
from forecache.base.steps import Steps, begin_work, is_looking
from forecache.kit.explain_errors import explain_error
from forecache.kit.installation import hold_exclusively
from forecache.plugins.alerts.journal import (
    AlertJournal,
    CursorMove,
    Outbox,
    change_journal,
    read_journal,
    record_alerts,
)
from forecache.plugins.alerts.message import Message
from forecache.plugins.alerts.receivers import AlertReceiver, configured_alert_receivers, has_alert_receivers
from forecache.plugins.posting import PostFailure

_GIVEN_UP_S = 3 * 86400.0
_log = logging.getLogger(__name__)

alert_step = Steps("noted", "made", "sent", "recorded")
"""Steps of notifying a receiver, after each of which tests kill the process."""


@dataclass(frozen=True)
class NotifyResult:
    """The result of notifying one receiver."""

    sink: str  # name of the receiver; "" if nothing could be recorded, or the settings are wrong
    messages: int = 0  # number of accepted messages
    notices: int = 0  # number of notices in these messages
    waiting: int = 0  # number of notices not sent yet, because it does not answer or had its messages of this hour
    reason: str = ""  # reason why it did not accept a message; "" if it did


def notify(
    settings: Settings,
    alerts: Iterable[Alert] = (),
    well: Iterable[Subject] = (),
    *,
    complete: Collection[Kind] = (),
    cursors: Mapping[str, CursorMove] | None = None,
) -> list[NotifyResult]:
    """Notify each configured receiver of new problems and of problems that are over.

    Notices that earlier calls could not send are sent too. An alert that was sent is sent again only while it lasts,
    every FORECACHE_ALERT_REPEAT_H. It raises nothing and takes at most FORECACHE_ALERT_TIMEOUT_S for each receiver, or
    several times that if a receiver is slow rather than silent: what cannot be sent waits, and a warning is logged.

    Args:
        well, complete, cursors: See `forecache.plugins.alerts.journal.record_alerts`.

    Returns:
        The result for each receiver; empty if none is configured.
    """
    try:
        receivers = configured_alert_receivers(settings)
        names = [receiver.name for receiver in receivers]
        journal = record_alerts(settings, alerts, well, receivers=names, complete=complete, cursors=cursors)
        alert_step("noted")
        return [_send_waiting(settings, receiver, journal.outbox(receiver.name)) for receiver in receivers]
    except Exception as error:  # noqa: BLE001  # its callers do not fail for an alert
        _log.warning("Alerts could not be recorded or sent: %s", error)
        return [NotifyResult("", reason=str(error))]


def report_run(
    settings: Settings,
    job_name: str,
    nights: Sequence[date],
    run_id: str,
    checks: Mapping[Subject, Alert | None],
    error: Exception | None,
) -> None:
    """Notify receivers of what failed in a run without an orchestrator, and of earlier failures that are made up for.

    A failed check that ends the run is one alert. A process that only looks has work if there is news.

    Args:
        checks: The alert of each check; None: it passed.
    """
    if not has_alert_receivers(settings):
        return
    try:
        known = {alert.subject: alert for alert in read_journal(settings).open_alerts}
    except ForecacheError as damage:  # the run has done its work
        _log.warning("The journal of alerts cannot be read: %s", damage)
        known = {}
    alerts = [alert for alert in checks.values() if alert is not None]
    well = [subject for subject, alert in checks.items() if alert is None and subject in known]
    dates = list(map(str, nights))
    if error is None:
        failed = (each for each in known.values() if (each.kind, each.name) == ("run_failed", job_name))
        well += [alert.subject for alert in failed if covers_nights(dates, alert.details)]
    elif not (isinstance(error, CheckError) and any(alert.severity == "critical" for alert in alerts)):
        text = "..".join(dict.fromkeys(dates))
        reason = error if isinstance(error, ForecacheError) else explain_error(error)
        said = f"{job_name}{f' for {text}' if text else ''} failed: {reason}"
        details = {"run_id": run_id, "nights": text, "failed_steps": 1}
        occasion = f"{text} run {run_id[:8]}".strip()
        alerts.append(Alert("run_failed", job_name, "critical", said, details, occasion=occasion))
    if is_looking():
        if well or any(alert.subject not in known for alert in alerts):
            begin_work("notifying receivers of alerts")
    elif alerts or well:
        notify(settings, alerts, well)


def covers_nights(done: Sequence[str], failed: Mapping[str, str]) -> bool:
    """Tell if a run, by its first and last as-of date, included all those of a failed one; True if neither has any."""
    missed = [night for night in failed["nights"].split("..") if night]
    if not done or not missed:
        return not done and not missed
    return done[0] <= missed[0] and missed[-1] <= done[-1]


def describe_failures(told: Sequence[NotifyResult]) -> str:
    """The reasons of receivers that could not be notified, a sentence each; "" if all were."""
    return " ".join(f"{each.sink or 'alerts'}: {each.reason}" for each in told if each.reason)


def _send_waiting(settings: Settings, receiver: AlertReceiver, outbox: Outbox) -> NotifyResult:
    """Send a receiver its messages; of all machines one process at a time does."""
    name, messages, notices, reason = receiver.name, 0, 0, ""
    if not outbox.num_waiting:
        return NotifyResult(name, reason=outbox.reason)
    wait_s = 2 * settings.alert_timeout_s
    try:
        with hold_exclusively(
            settings, f"alerts/{quote(name, safe=' @')[:200]}", action="sends alerts", wait_s=wait_s
        ) as lease:
            # Another process that did not get the lease relies on this one to send what it records meanwhile.
            while not reason and (message := _next_message(settings, name)) is not None:
                alert_step("made")
                lease.confirm()
                failed = _send(receiver, message)
                alert_step("sent")
                reason = failed.reason if failed is not None else ""
                _record_answer(settings, name, message, failed)
                if failed is None:
                    messages, notices = messages + 1, notices + len(message.notices)
                alert_step("recorded")
    except ConflictError:
        _log.info("Another process is sending alerts to %s.", name)
    if reason:
        _log.warning("Alerts could not be sent to %s: %s", name, reason)
    outbox = read_journal(settings).outbox(name)
    return NotifyResult(name, messages, notices, outbox.num_waiting, reason or outbox.reason)


def _next_message(settings: Settings, receiver: str) -> Message | None:
    """The message to send now, made if notices wait.

    None if nothing waits, if the receiver is not to be tried yet, or if it had its messages of this hour.
    """

    def make(journal: AlertJournal) -> Message | None:
        is_due = journal.outbox(receiver).next_message(time.time(), per_hour=settings.alert_messages_per_hour)
        return journal.message_to(receiver, settings.project) if is_due else None

    return change_journal(settings, make)


def _record_answer(settings: Settings, receiver: str, message: Message, failed: PostFailure | None) -> None:
    """Record that the receiver took a message, refused it for good, or is to be tried again."""

    def record(journal: AlertJournal) -> None:
        outbox, now = journal.outbox(receiver), time.time()
        if failed is None or failed.refused:
            outbox.end_message(message.id)
            journal.remove_old()
            return
        outbox.mark_failed(failed.reason, now, at_least_s=failed.retry_after_s)
        if now - message.made_at.timestamp() > _GIVEN_UP_S:
            outbox.end_message(message.id, is_working=False)

    change_journal(settings, record)


def _send(receiver: AlertReceiver, message: Message) -> PostFailure | None:
    try:
        return receiver.send(message)
    except Exception as error:  # noqa: BLE001  (a defect of a receiver must not fail its caller: it is tried again)
        name = type(error).__name__
        # The frames, and not the error's text: that may have the receiver's URL, which may be a secret.
        frames = "".join(format_tb(error.__traceback__))
        _log.error("A message to %s was not sent, by a defect: %s\n%s", receiver.name, name, frames)
        return PostFailure(f"{name} while the message was sent.")
