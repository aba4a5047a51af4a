"""The whole page: head, state, problems, sections, and its content security policy."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from forecache.kit import format_text as words
from forecache.plugins.status.page.charts import traffic_section
from forecache.plugins.status.page.markup import Markup, join_content, mark_code, tag
from forecache.plugins.status.page.sections import (
    models_section,
    nights_section,
    streams_section,
    versions_section,
    workers_section,
)

_HERE = Path(__file__).parent
_STYLE = Markup((_HERE / "page.css").read_text())
_SCRIPT = Markup((_HERE / "page.js").read_text())
_COLOURS = {"well": "#1f8a55", "warning": "#c27c00", "critical": "#c92a35"}
REFRESH_S = 5
"""Interval at which the whole page is loaded again without JavaScript."""


def _digest(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_digest(_STYLE)}; script-src {_digest(_SCRIPT)}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    ("content-type", "text/html; charset=utf-8"),
    ("cache-control", "no-store"),
    ("content-security-policy", POLICY),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("vary", "accept, authorization"),
]


def render_page(status: Mapping[str, Any]) -> bytes:
    now = datetime.fromisoformat(status["at"].replace("Z", "+00:00")).timestamp()
    title = f"{words.headline(status['state'], status['ready'])} – Forecache reader"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="robots", content="noindex"),
        tag("title", title),
        tag("link", rel="icon", href=_icon(status["state"])),
        tag("noscript", tag("meta", http_equiv="refresh", content=REFRESH_S)),
        tag("style", _STYLE),
        tag("script", _SCRIPT),
    )
    main = tag(
        "main",
        _attention_section(status["attention"]),
        traffic_section(status["traffic"], now=now),
        models_section(status["models"]),
        versions_section(status["versions"]),
        streams_section(status.get("streams", ())),
        nights_section(status.get("nights")),
        workers_section(status["reader"]),
    )
    body = tag("body", _header(status), main, _footer(status["reader"]))
    return f"<!DOCTYPE html>{tag('html', head, body, lang='en')}".encode()


def _header(status: Mapping[str, Any]) -> Markup:
    reader = status["reader"]
    workers = reader["workers"]
    facts = f"{workers['alive']} of {words.plural(workers['wanted'], 'worker')} · up {words.span(reader['uptime_s'])}"
    state = "critical" if not status["ready"] else status["state"]
    moment = status["at"][11:19]
    updated = join_content(["as of ", tag("time", f"{moment} UTC", datetime=status["at"])])
    return tag(
        "header",
        tag("div", tag("h1", tag("span", class_=f"light {state}", aria_hidden="true"),
                       words.headline(status["state"], status["ready"])),
            tag("p", "Forecache reader", class_="product")),
        tag("p", facts, " · ", updated, class_="moment"),
        tag("p", class_="lost", hidden=True, role="status"),
        class_="top",
    )  # fmt: skip


def _attention_section(found: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not found:
        return None
    items = [
        tag("li", tag("strong", each["what"]), " ", tag("span", mark_code(each["remedy"])), class_=each["severity"])
        for each in found
    ]
    return tag("section", tag("h2", "Needs attention", id="attention", class_="unseen"),
               tag("ul", items, class_="attention"), aria_labelledby="attention")  # fmt: skip


def _footer(reader: Mapping[str, Any]) -> Markup:
    code = f" · code {reader['code_version']}" if reader["code_version"] else ""
    about = f"Forecache {reader['version']} · Python {reader['python']}{code} · "
    links = [
        tag("a", "the same as JSON", href="status.json"),
        " · ",
        tag("a", "metrics for Prometheus", href="metrics"),
    ]
    return tag("footer", tag("p", about, links))


def _icon(state: str) -> str:
    dot = tag("circle", cx=8, cy=8, r=7, fill=_COLOURS[state])
    return f"data:image/svg+xml,{quote(tag('svg', dot, xmlns='http://www.w3.org/2000/svg', viewBox='0 0 16 16'))}"
