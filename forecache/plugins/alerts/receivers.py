"""Receivers of alerts that the settings name: e-mail, Slack, Alertmanager, webhooks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from functools import partial
from typing import Any, Protocol

from forecache.base.alert import LASTING
from forecache.base.errors import ForecacheError, SettingsError
from forecache.base.settings import Settings
from forecache.kit.smtp import Relay, one_line
from forecache.plugins.alerts.message import Message, Notice, NoticeGroup
from forecache.plugins.posting import PostFailure, post_json

_SHOWN_FOR = timedelta(hours=1)
"""Time for which an alert about a moment is firing."""
_FOR_EVER = timedelta(days=3650)


@dataclass(frozen=True)
class HttpReceiver:
    """POSTs each message in a format of its own."""

    name: str
    url: str = field(repr=False)  # may hold a secret
    content: Callable[[Message], Any]
    timeout_s: float
    token: str = field(default="", repr=False)
    is_idempotent: bool = False  # the message's id is sent as `Idempotency-Key`

    def send(self, message: Message) -> PostFailure | None:
        headers = {"Idempotency-Key": message.id} if self.is_idempotent else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return post_json(self.url, self.content(message), headers=headers, timeout_s=self.timeout_s)


def alertmanager_content(message: Message, *, repeat_s: float) -> list[dict[str, Any]]:
    """Each alert once; its end, if it both began and ended in this message. A repeat has the same labels."""
    last = {notice.id: notice for group in message.groups for notice in group.notices}
    return [_alertmanager_alert(message, notice, repeat_s) for notice in last.values()]


def _alertmanager_alert(message: Message, notice: Notice, repeat_s: float) -> dict[str, Any]:
    alert = notice.alert
    labels = {
        "alertname": "Forecache" + "".join(word.capitalize() for word in alert.kind.split("_")),
        "project": message.project,
        **{name: getattr(alert, name) for name in ("severity", "kind", "name", "occasion")},
    }
    details = {name: str(value) for name, value in alert.details.items()}
    return {
        # An empty label is none for Alertmanager.
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {**details, "summary": alert.summary, "message_id": message.id},
        "startsAt": alert.at.isoformat(),
        "endsAt": _ends_at(message, notice, repeat_s).isoformat(),
    }


def _ends_at(message: Message, notice: Notice, repeat_s: float) -> datetime:
    if notice.ended_at is not None:
        return notice.ended_at
    if notice.alert.kind not in LASTING:
        return message.made_at + _SHOWN_FOR
    return message.made_at + (timedelta(seconds=3 * repeat_s) if repeat_s else _FOR_EVER)


_HEADER, _SECTION, _CONTEXT = 150, 3000, 2000
_MARKS = {"critical": ":red_circle:", "warning": ":large_yellow_circle:", "info": ":large_blue_circle:"}
_RESOLVED = ":white_check_mark:"


def slack_content(message: Message) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _truncate(message.subject, _HEADER)}}
    ]
    blocks += [{"type": "section", "text": _markdown(_group_text(group), _SECTION)} for group in message.named_groups]
    if message.remainder_text:
        blocks.append({"type": "section", "text": _markdown(_escape(message.remainder_text), _SECTION)})
    when = f"{message.made_at:%Y-%m-%d %H:%M} UTC, message {message.id}"
    blocks.append({"type": "context", "elements": [_markdown(when, _CONTEXT)]})
    return {"text": _escape(message.subject), "blocks": blocks}


def _group_text(group: NoticeGroup) -> str:
    mark = _RESOLVED if group.state == "resolved" else _MARKS[group.severity]
    return f"{mark} *{_escape(group.title)}*\n{_escape(group.text)}"


def _markdown(text: str, most: int) -> dict[str, str]:
    return {"type": "mrkdwn", "text": _truncate(text, most)}


def _escape(text: str) -> str:
    """Escape a text, so that nothing in it becomes a link or a mention of everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _truncate(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


_MOST = 200
"""Number of alerts that a message has in full."""


def webhook_content(message: Message) -> dict[str, Any]:
    """The message's groups with their counts, and its first 200 alerts in full."""
    groups = message.groups
    in_order = [notice for group in groups for notice in group.notices]
    return {
        "version": 1,
        "id": message.id,
        "project": message.project,
        "made_at": message.made_at.isoformat(),
        "summary": message.subject,
        "groups": [
            {
                "state": group.state,
                "severity": group.severity,
                "kind": group.notices[0].alert.kind,
                "name": group.notices[0].alert.name,
                "count": len(group.notices),
                "title": group.title,
                "text": group.text,
            }
            for group in groups
        ],
        "total": len(in_order),
        "alerts": [_alert_content(notice) for notice in in_order[:_MOST]],
    }


def _alert_content(notice: Notice) -> dict[str, Any]:
    alert = notice.alert
    return {
        "id": notice.id,
        "state": notice.state,
        "repeat": notice.number,
        **{name: getattr(alert, name) for name in ("kind", "name", "occasion", "severity", "summary")},
        "details": dict(alert.details),
        "at": alert.at.isoformat(),
        "ended_at": notice.ended_at.isoformat() if notice.ended_at else None,
    }


class AlertReceiver(Protocol):
    """A receiver of messages."""

    @property
    def name(self) -> str:
        """Its name in the journal and for people; without secrets, and stable while the settings are."""

    def send(self, message: Message) -> PostFailure | None:
        """Send a message; returns None if the receiver accepted it. Raises nothing for failures of the receiver."""


def configured_alert_receivers(settings: Settings) -> list[AlertReceiver]:
    """The receivers of the FORECACHE_ALERT_ settings; empty if none is set."""
    sinks: list[AlertReceiver] = []
    for name in ("alert_webhook", "alert_slack", "alert_alertmanager"):
        _require_url(f"FORECACHE_{name.upper()}", getattr(settings, name))
    timeout_s, token = settings.alert_timeout_s, settings.alert_webhook_token
    if url := settings.alert_webhook:
        sinks.append(HttpReceiver("webhook", url, webhook_content, timeout_s, token, is_idempotent=True))
    if url := settings.alert_slack:
        sinks.append(HttpReceiver("slack", url, slack_content, timeout_s))
    if url := settings.alert_alertmanager:
        content = partial(alertmanager_content, repeat_s=settings.alert_repeat_h * 3600)
        sinks.append(HttpReceiver("alertmanager", f"{url.rstrip('/')}/api/v2/alerts", content, timeout_s))
    return [*sinks, *_email_receivers(settings)]


def has_alert_receivers(settings: Settings) -> bool:
    """Tell if the settings name a receiver."""
    return any((settings.alert_webhook, settings.alert_slack, settings.alert_alertmanager, settings.alert_email))


def _email_receivers(settings: Settings) -> list[AlertReceiver]:
    addresses = [address.strip() for address in settings.alert_email.split(",") if address.strip()]
    if not addresses:
        return []
    from forecache.kit.smtp import usable_address

    if not settings.smtp_host:
        raise SettingsError("FORECACHE_ALERT_EMAIL is set, and no SMTP server.", remedy="Set FORECACHE_SMTP_HOST.")
    if not usable_address(parseaddr(settings.alert_email_from)[1]):
        raise SettingsError(
            f"FORECACHE_ALERT_EMAIL_FROM is {settings.alert_email_from!r}, which has no e-mail address.",
            remedy='Write it like "Forecache <forecache@example.org>".',
        )
    for address in addresses:
        if not usable_address(address):
            raise SettingsError(
                f"FORECACHE_ALERT_EMAIL has {address!r}, which is no e-mail address.",
                remedy="Write addresses with commas between them.",
            )
    return [Email(settings, usable_address(address)) for address in dict.fromkeys(addresses)]


def _require_url(name: str, url: str) -> None:
    # The value is not shown: it may be a secret.
    if url and not url.startswith(("http://", "https://")):
        raise SettingsError(f"{name} is no URL.", remedy="Write it like https://host/path.")


_SUBJECT = 150


class Email:
    """Sends each message to one address, with the message's id in its Message-ID, by which servers may drop copies."""

    def __init__(self, settings: Settings, address: str) -> None:
        self._settings, self._address = settings, address
        self.name = f"email {address}"

    def send(self, message: Message) -> PostFailure | None:
        sender = self._settings.alert_email_from
        content = email_content(message, sender=sender, address=self._address)
        impatient = self._settings.model_copy(
            update={"smtp_timeout_s": min(self._settings.smtp_timeout_s, self._settings.alert_timeout_s)}
        )
        try:
            with Relay(impatient, tries=1) as relay:
                answer = relay.send(parseaddr(sender)[1], self._address, content, last_byte=lambda: None)
        except ForecacheError as error:
            return PostFailure(str(error))
        if answer.state == "accepted":
            return None
        return PostFailure(
            f"The SMTP server answered {answer.code}: {answer.reason}", refused=answer.state == "refused"
        )


def email_content(message: Message, *, sender: str, address: str) -> bytes:
    """A plain text, lines ending in CRLF."""
    name, sender_address = parseaddr(sender)
    mail = EmailMessage(policy=SMTP)
    mail["From"] = Address(one_line(name), addr_spec=sender_address)
    mail["To"] = Address(addr_spec=address)
    mail["Subject"] = one_line(message.subject)[:_SUBJECT]
    mail["Date"] = format_datetime(message.made_at)
    mail["Message-ID"] = f"<{message.id}@{sender_address.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [f"{group.title}\n{group.text}\n" for group in message.named_groups]
    lines += [f"{message.remainder_text}\n"] if message.remainder_text else []
    mail.set_content("\n".join(lines))
    return mail.as_bytes()
