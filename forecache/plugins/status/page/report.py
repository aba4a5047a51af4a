"""The page on one declaration: runs, versions, model, drift, quality, cost, alerts, and the answer for a key."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from forecache.kit import format_text as words
from forecache.plugins.status.page import charts
from forecache.plugins.status.page.document import page
from forecache.plugins.status.page.markup import Content, Markup, mark_code, section, table, tag
from forecache.plugins.status.page.sections import streams_section

_MOST_CHARTS, _MOST_FEATURES, _MOST_REPORTS = 9, 3, 10
_LARGE = 0.25
"""Population stability index from which a distribution is said to have moved."""


def render_report(found: Mapping[str, Any], *, in_server: bool) -> bytes:
    """The HTML page of `describe_name`; the form for a key only works in the server."""
    name = found["name"]
    state = "warning" if found["alerts"] else "well"
    owner = found["owner"] and f"owner {found['owner']}"
    about = " · ".join(filter(None, (found["kind"], owner, found["environment"])))
    header = tag(
        "header",
        tag("div", tag("h1", tag("span", class_=f"light {state}", aria_hidden="true"), name),
            tag("p", about, class_="product")),
        tag("p", [[tag("a", title, href=url), " · "] for title, url in found["links"].items() if url],
            "as of ", tag("time", found["at"][:19].replace("T", " "), datetime=found["at"]), " UTC",
            class_="moment"),
        class_="top",
    )  # fmt: skip
    main = tag(
        "main",
        tag("p", found["description"], class_="told") if found["description"] else None,
        _alerts(found["alerts"]),
        _key_section(found, with_form=in_server),
        _runs(found),
        _versions(found["versions"], name),
        _releases(found["releases"], found["rollout"]),
        _model(found, in_server=in_server),
        _measured(found["measurements"]),
        streams_section(found["streams"], leads_to="" if in_server else None),
        _cost(found),
    )
    links: list[Content] = [tag("a", "status of the server", href="../status"), " · "] if in_server else []
    footer = tag("footer", tag("p", links, f"Written by forecache report {name}."))
    return page(f"{name} – Forecache", state, header, main, footer)


def _alerts(alerts: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not alerts:
        return None
    items = [
        tag("li", tag("strong", each["summary"]), class_="critical" if each["severity"] == "critical" else "warning")
        for each in alerts
    ]
    return tag("section", tag("h2", "Open alerts", id="alerts"), tag("ul", items, class_="attention"))


def _key_section(found: Mapping[str, Any], *, with_form: bool) -> Markup | None:
    """The answer for a key of a store, or to a request of a real-time model; with a form that asks for another."""
    explained, is_realtime = found["explained"], found["kind"] == "real-time model"
    is_asked = bool(found["versions"]) or is_realtime
    if explained is None and not (with_form and is_asked):
        return None
    form = tag(
        "form",
        tag("label", "Request id " if is_realtime else "Key ",
            tag("input", name="key", value=found["key"], required=True)),
        " ",
        tag("button", "Explain its answer", type="submit"),
        method="get",
    )  # fmt: skip
    if explained is None:
        shown: Content = None
    elif explained["problem"]:
        shown = tag("p", mark_code(explained["problem"]), class_="bad")
    else:
        shown = [
            tag("h3", explained["answer"]),
            tag("ul", [tag("li", part["title"], _lines(part["lines"])) for part in explained["parts"]]),
        ]
    title = "Answer to a request" if is_realtime else "Answer for a key"
    return section(title, "key", tag("div", form if with_form else None, shown, class_="card"))


def _lines(lines: Sequence[str]) -> Markup | None:
    return tag("ul", [tag("li", mark_code(line), class_="told") for line in lines]) if lines else None


def _runs(found: Mapping[str, Any]) -> Markup | None:
    if not found["runs"] and found["kind"] == "stream":
        return None
    if not found["runs"]:
        empty = f"Nothing has run in the last {found['days']} days; `forecache run {found['name']}` would."
        return section("Runs", "runs", tag("p", mark_code(empty), class_="empty"))
    rows = [
        [row["as_of"] or "–", ", ".join(map(_words, row["stages"])),
         words.count(row["rows"] if row["as_of"] else row["rows"] or None), words.span(row["seconds"]),
         _link(f"{words.span(max(0, row['ended_s_ago']))} ago", row["run_url"])]
        for row in found["runs"]
    ]  # fmt: skip
    titles = ("As of", "Stages", "Rows", "Took", "Ended")
    shown = table("Runs by as-of date", titles, rows, right=(2, 3, 4), long=(1,))
    took = [row["seconds"] for row in reversed(found["runs"]) if row["as_of"]]
    line = charts.sparkline(took, label="Seconds of each run, the newest last") if len(took) > 1 else None
    return section("Runs", "runs", tag("div", line, shown, class_="card"))


def _versions(versions: Sequence[Mapping[str, Any]], name: str) -> Markup | None:
    if not versions:
        return None
    rows = [
        [str(row["version"]), _state(row), row["as_of"], words.count(row["keys"]), words.size(row["size_bytes"]),
         _link(f"{row['model']['name']} {row['model']['version']}", row["model_url"]) if row["model"] else "–",
         row["published_at"][:16].replace("T", " "), _link(row["run_id"][:8] or "–", row["run_url"])]
        for row in versions
    ]  # fmt: skip
    titles = ("Version", "State", "As of", "Keys", "Size", "Model", "Published", "Run")
    shown = table("Published versions", titles, rows, right=(3, 4))
    back = mark_code(f"`forecache rollback {name}` serves the version before again.")
    told = tag("p", back, class_="told") if len(versions) > 1 else None
    return section("Versions", "versions", tag("div", shown, told, class_="card"))


def _releases(releases: Sequence[Mapping[str, Any]], rollout: Mapping[str, Any] | None) -> Markup | None:
    if not releases:
        return None
    rows = [
        [str(row["release"]), ", ".join(row["state"]),
         f"{row['model']} {row['model_version']}" if row["model"] else row["problem"],
         row["runtime"] or "–", words.size(row["size_bytes"]), row["created_at"][:16].replace("T", " ")]
        for row in releases
    ]  # fmt: skip
    titles: tuple[str, ...] = ("Release", "State", "Model", "Runtime", "Size", "Made")
    shown = [table("Releases", titles, rows, right=(4,), long=(2,))]
    if rollout is not None:
        steps = [
            [step["stage"], f"{step['share']:g}", step["since"][:16].replace("T", " "),
             *map(words.count, step["requests"]), step["verdict"], step["why"]]
            for step in rollout["steps"]
        ]  # fmt: skip
        titles = ("Step", "Share", "Since", "Requests of the current release", "of the other variant", "Verdict", "Why")
        shown.append(table(f"Rollout of release {rollout['release']}", titles, steps, right=(1, 3, 4), long=(6,)))
    return section("Releases", "releases", tag("div", shown, class_="card"))


def _state(row: Mapping[str, Any]) -> Content:
    colours = {"serving": "well", "blocked": "critical", "rolled back": "critical"}
    chips = [tag("span", each, class_=f"chip {colours.get(each, 'info')}") for each in row["state"]]
    return [*chips, tag("span", row["blocked_as"], class_="about") if row.get("blocked_as") else None]


def _words(name: str) -> str:
    """The name of a stage for people."""
    return name.replace("_", " ")


def _link(text: str, url: str) -> Content:
    return tag("a", text, href=url) if url else text


def _model(found: Mapping[str, Any], *, in_server: bool) -> Markup | None:
    if not found["moves"]:
        return None
    rows = [
        [
            row["at"][:16].replace("T", " "),
            row["action"],
            row["actor"].replace(" ", "\u00a0"),
            _change(row),
            row["verdict"],
            row["reason"],
        ]
        for row in found["moves"]
    ]
    shown = table("Decisions about the model", ("When", "What", "By", "Champion", "Result", "Why"), rows, long=(5,))
    reports = [
        tag("li", tag("a", f"version {version}", href=f"?report={version}" if in_server else Path(path).as_uri()))
        for version, path in list(found["reports"].items())[:_MOST_REPORTS]
    ]
    listed = tag("div", tag("p", "Reports of model versions", class_="title"), tag("ul", reports)) if reports else None
    return section("Model", "model", tag("div", shown, listed, class_="card"))


def _change(row: Mapping[str, Any]) -> str:
    if row["from"] == row["to"]:
        return f"stays {row['to']}" if row["to"] else "none"
    return f"{row['from'] or 'none'}\u00a0to\u00a0{row['to'] or 'none'}"


def _measured(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Drift of outputs, quality, and the features that have moved most, each over the as-of dates."""
    cards = [*_series(rows, "prediction", "effect"), *_series(rows, "performance", "value")]
    cards += [*islice(_series(rows, "feature", "effect"), _MOST_FEATURES), *_series(rows, "estimate", "value")]
    if not cards:
        return None
    return section("Drift and quality", "drift", tag("div", cards[:_MOST_CHARTS], class_="cards"))


_TITLES = {
    "prediction": "Drift of {name} (PSI to the {reference})",
    "feature": "Drift of the feature {name} (PSI)",
    "performance": "{name}, once labels were known",
    "estimate": "{name}, expected",
}


def _series(rows: Sequence[Mapping[str, Any]], kind: str, figure: str) -> Iterator[Markup]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] == kind and row[figure] is not None:
            groups.setdefault((row["name"], row["reference"]), []).append(row)
    for (name, reference), points in sorted(groups.items(), key=lambda each: -abs(each[1][-1][figure])):
        last, is_drift = points[-1][figure], figure == "effect"
        title = _TITLES[kind].format(name=name, reference=reference.replace("nights", "dates"))
        values = [point[figure] for point in points]
        moved = is_drift and last >= _LARGE
        line = charts.sparkline(values, label=f"{title}: {last:.3g}") if len(values) > 1 else None
        yield tag(
            "article",
            tag("h3", title),
            tag("p", tag("span", f"{last:.3g}", class_="big bad" if moved else "big"), class_="value"),
            line,
            tag("p", f"{points[0]['date']} to {points[-1]['date']}", class_="told"),
            class_="card",
        )


def _cost(found: Mapping[str, Any]) -> Markup | None:
    if not found["cost"]:
        return None
    rows = [
        [
            _words(row["what"]),
            _amount(row["amount"], row["unit"]),
            "–" if row["price"] is None else f"{row['price']:,.3g}",
        ]
        for row in found["cost"]
    ]  # fmt: skip
    titles = ("What", "A day", "Price on demand")
    shown = table("What it takes a day", titles, rows, right=(1, 2))
    told = tag("p", f"Means of the last {found['cost_days']} days.", class_="told")
    return section("Cost", "cost", tag("div", shown, told, class_="card"))


def _amount(value: float, unit: str) -> str:
    """An amount with its unit; hours as seconds if they are a few."""
    kind, _, per = unit.rpartition("-")
    if per == "hours" and value < 0.1:
        value, unit = value * 3600, f"{kind}-seconds"
    return f"{value:,.3g} {unit}"
