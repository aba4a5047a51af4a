"""Sends alerts to an incoming webhook of Slack, or of a service with the same format, such as Mattermost.

Limits of Slack's Block Kit: 150 characters in a header, 3,000 in a section, 50 blocks in a message.
"""

from typing import Any

from forecache.base.posting import PostFailure, post_json
from forecache.plugins.alerts.message import Message, NoticeGroup

_HEADER, _SECTION, _CONTEXT = 150, 3000, 2000
_MARKS = {"critical": ":red_circle:", "warning": ":large_yellow_circle:", "info": ":large_blue_circle:"}
_RESOLVED = ":white_check_mark:"


class Slack:
    """POSTs each message as blocks, with a plain text for notifications."""

    name = "slack"

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s

    def send(self, message: Message) -> PostFailure | None:
        return post_json(self._url, slack_content(message), headers={}, timeout_s=self._timeout_s)


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
