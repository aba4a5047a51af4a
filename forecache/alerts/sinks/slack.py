"""Sends alerts to an incoming webhook of Slack, or of a service with the same format, such as Mattermost.

Limits of Slack's Block Kit: 150 characters in a header, 3,000 in a section, 50 blocks in a message.
"""

from typing import Any

from forecache.alerts.message import Group, Message
from forecache.posting import Failed, post_json

_HEADER, _SECTION, _CONTEXT = 150, 3000, 2000
_MARKS = {"critical": ":red_circle:", "warning": ":large_yellow_circle:", "info": ":large_blue_circle:"}
_RESOLVED = ":white_check_mark:"


class Slack:
    """POSTs each message as blocks, with a plain text for notifications."""

    name = "slack"

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s

    def send(self, message: Message) -> Failed | None:
        return post_json(self._url, slack_content(message), headers={}, timeout_s=self._timeout_s)


def slack_content(message: Message) -> dict[str, Any]:
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(message.subject, _HEADER)}}
    ]
    blocks += [{"type": "section", "text": _markdown(_of_group(group), _SECTION)} for group in message.named_groups]
    if message.unnamed:
        blocks.append({"type": "section", "text": _markdown(_escaped(message.unnamed), _SECTION)})
    when = f"{message.made_at:%Y-%m-%d %H:%M} UTC, message {message.id}"
    blocks.append({"type": "context", "elements": [_markdown(when, _CONTEXT)]})
    return {"text": _escaped(message.subject), "blocks": blocks}


def _of_group(group: Group) -> str:
    mark = _RESOLVED if group.state == "resolved" else _MARKS[group.severity]
    return f"{mark} *{_escaped(group.title)}*\n{_escaped(group.text)}"


def _markdown(text: str, most: int) -> dict[str, str]:
    return {"type": "mrkdwn", "text": _cut(text, most)}


def _escaped(text: str) -> str:
    """Escape a text, so that nothing in it becomes a link or a mention of everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
