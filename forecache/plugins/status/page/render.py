"""The status page: state, problems and sections."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from forecache.kit import format_text as words
from forecache.plugins.status.page.charts import traffic_section
from forecache.plugins.status.page.document import page
from forecache.plugins.status.page.markup import Markup, join_content, mark_code, tag
from forecache.plugins.status.page.sections import (
    models_section,
    nights_section,
    streams_section,
    versions_section,
    workers_section,
)


def render_page(status: Mapping[str, Any]) -> bytes:
    now = datetime.fromisoformat(status["at"].replace("Z", "+00:00")).timestamp()
    title = f"{words.headline(status['state'], status['ready'])} – Forecache server"
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
    return page(title, status["state"], _header(status), main, _footer(status["reader"]), follows=True)


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
            tag("p", " · ".join(filter(None, ("Forecache server", reader.get("environment")))), class_="product")),
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
        " · ",
        tag("a", "API", href="docs"),
    ]
    return tag("footer", tag("p", about, links))
