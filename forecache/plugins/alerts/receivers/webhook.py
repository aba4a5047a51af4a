"""Sends alerts as JSON, with all that is known of them, to any webhook."""

from typing import Any

from forecache.base.posting import PostFailure, post_json
from forecache.plugins.alerts.message import Message, Notice

_MOST = 200
"""Number of alerts that a message has in full."""


class Webhook:
    """POSTs each message with its id as `Idempotency-Key`."""

    name = "webhook"

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        self._url, self._token, self._timeout_s = url, token, timeout_s

    def send(self, message: Message) -> PostFailure | None:
        headers = {"Idempotency-Key": message.id}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return post_json(self._url, webhook_content(message), headers=headers, timeout_s=self._timeout_s)


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
        "kind": alert.kind,
        "name": alert.name,
        "occasion": alert.occasion,
        "severity": alert.severity,
        "summary": alert.summary,
        "details": dict(alert.details),
        "at": alert.at.isoformat(),
        "ended_at": notice.ended_at.isoformat() if notice.ended_at else None,
    }
