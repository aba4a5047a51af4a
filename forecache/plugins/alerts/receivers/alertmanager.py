"""Sends alerts to a Prometheus Alertmanager by version 2 of its API; it groups, silences and routes them.

Alertmanager resolves an alert at its `endsAt` unless it is posted again, so each alert names a time well after the next
repeat. Format: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml
"""

from datetime import datetime, timedelta
from typing import Any

from forecache.base.alert import LASTING
from forecache.base.posting import PostFailure, post_json
from forecache.plugins.alerts.message import Message, Notice

_SHOWN_FOR = timedelta(hours=1)
"""Time for which an alert about a moment is firing."""
_FOR_EVER = timedelta(days=3650)


class Alertmanager:
    """POSTs the alerts of each message. Labels identify an alert, so that a repeat changes nothing."""

    name = "alertmanager"

    def __init__(self, url: str, *, repeat_s: float, timeout_s: float) -> None:
        self._url, self._repeat_s, self._timeout_s = f"{url.rstrip('/')}/api/v2/alerts", repeat_s, timeout_s

    def send(self, message: Message) -> PostFailure | None:
        content = alertmanager_content(message, repeat_s=self._repeat_s)
        return post_json(self._url, content, headers={}, timeout_s=self._timeout_s)


def alertmanager_content(message: Message, *, repeat_s: float) -> list[dict[str, Any]]:
    """The body of the request: each alert once; its end, if it both began and ended in this message."""
    last = {notice.id: notice for group in message.groups for notice in group.notices}
    return [_alert_content(message, notice, repeat_s) for notice in last.values()]


def _alert_content(message: Message, notice: Notice, repeat_s: float) -> dict[str, Any]:
    alert = notice.alert
    labels = {
        "alertname": "Forecache" + "".join(word.capitalize() for word in alert.kind.split("_")),
        "severity": alert.severity,
        "project": message.project,
        "kind": alert.kind,
        "name": alert.name,
        "occasion": alert.occasion,
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
