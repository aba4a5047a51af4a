"""Parts that all pages share: the head with its style and icon, and the content security policy."""

import base64
import hashlib
from pathlib import Path
from urllib.parse import quote

from forecache.plugins.status.page.markup import Content, Markup, tag

_HERE = Path(__file__).parent
_STYLE = Markup((_HERE / "page.css").read_text())
SCRIPT = Markup((_HERE / "page.js").read_text())
_COLOURS = {"well": "#1f8a55", "warning": "#c27c00", "critical": "#c92a35"}
REFRESH_S = 5
"""Interval at which a page that follows is loaded again without JavaScript."""


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_digest(_STYLE)}; script-src {_digest(SCRIPT)}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = [
    ("content-type", "text/html; charset=utf-8"),
    ("cache-control", "no-store"),
    ("content-security-policy", POLICY),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("vary", "accept, authorization"),
]

REPORT_HEADERS = [(name, _REPORT_POLICY if name == "content-security-policy" else value) for name, value in HEADERS]
"""Of reports of models, whose plots have styles of their own."""


def page(title: str, state: str, *content: Content, follows: bool = False) -> bytes:
    """A whole page.

    Args:
        state: "well", "warning" or "critical", the colour of its icon.
        follows: The page loads itself again every few seconds.
    """
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="robots", content="noindex"),
        tag("title", title),
        tag("link", rel="icon", href=f"data:image/svg+xml,{quote(icon(state))}"),
        tag("noscript", tag("meta", http_equiv="refresh", content=REFRESH_S)) if follows else None,
        tag("style", _STYLE),
        tag("script", SCRIPT) if follows else None,
    )
    return f"<!DOCTYPE html>{tag('html', head, tag('body', content), lang='en')}".encode()


def icon(state: str) -> Markup:
    """A dot in the colour of a state, as SVG."""
    dot = tag("circle", cx=8, cy=8, r=7, fill=_COLOURS[state])
    return tag("svg", dot, xmlns="http://www.w3.org/2000/svg", viewBox="0 0 16 16")
