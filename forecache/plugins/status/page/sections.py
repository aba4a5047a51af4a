"""The sections of the page below the charts: versions, streams with their live layers, as-of dates, workers."""

from collections.abc import Mapping, Sequence
from typing import Any

from forecache.plugins.status.page.markup import (
    Content,
    Markup,
    TableColumn,
    join_content,
    mark_code,
    section,
    table,
    tag,
)
from forecache.serve.reader.status import format_text as words

_STATES = {"served": "well", "stale": "warning", "waiting": "warning", "fallback": "warning", "refused": "critical",
           "damaged": "critical", "unreadable": "critical"}  # fmt: skip
_VERSION_COLUMNS = (
    TableColumn("Name"), TableColumn("State"), TableColumn("Version", right=True), TableColumn("As of"),
    TableColumn("Age", right=True), TableColumn("Allowed", right=True), TableColumn("Keys", right=True),
    TableColumn("Size", right=True), TableColumn("Keys asked", right=True), TableColumn("Found", right=True),
)  # fmt: skip
_NIGHT_COLUMNS = (
    TableColumn("As of"),
    TableColumn("Done", long=True),
    TableColumn("Took", right=True),
    TableColumn("Ended", right=True),
)
_WORKER_COLUMNS = (
    TableColumn("Process"),
    TableColumn("State"),
    TableColumn("Answered", right=True),
    TableColumn("Memory", right=True),
)


def versions_section(rows: Sequence[Mapping[str, Any]]) -> Markup:
    if not rows:
        empty = "No pipeline or view has a store here. The first `forecache publish` makes one."
        return section("Served from the store", "versions", tag("p", mark_code(empty), class_="empty"))
    shown = table("Pipelines and feature views", _VERSION_COLUMNS, [_version(row) for row in rows])
    return section("Served from the store", "versions", tag("div", shown, class_="card"))


def _version(row: Mapping[str, Any]) -> list[Content]:
    about = "feature view" if row["kind"] == "view" else _model(row["model"])
    if row["stale"] and not row["overdue"]:
        about = f"{about}, the last of its sources" if about else "the last of its sources"
    name = join_content(
        [tag("span", row["name"], class_="name"), tag("span", about, class_="about") if about else None]
    )
    state = tag("span", row["state"], class_=f"chip {_STATES[row['state']]}")
    served = row["version"] is not None
    allowed = f"{row['max_age_h']:g} h" if served else "–"
    size = words.size(row["size_bytes"]) if served else "–"
    return [
        name, state, words.count(row["version"]), row["as_of"] or "–", words.span(row["age_s"]), allowed,
        words.count(row["keys"]), size, f"{words.rate(row['keys_per_s'])} /s", words.percent(row["found_share"]),
    ]  # fmt: skip


def _model(model: Mapping[str, Any] | None) -> str:
    return f"model {model['name']} {model['version']}" if model else ""


def nights_section(nights: Mapping[str, Any] | None) -> Markup | None:
    """The last as-of dates from the stage ledger; None if nobody reads the ledger."""
    if nights is None:
        return None
    if not nights["rows"]:
        return section("Last nights", "nights", tag("p", mark_code(nights["why"]), class_="empty"))
    nights_of: dict[str, list[Mapping[str, Any]]] = {}
    for row in nights["rows"]:
        nights_of.setdefault(row["as_of"], []).append(row)
    rows = [_night(as_of, done) for as_of, done in nights_of.items()]
    shown = table("What was done for the last as-of dates", _NIGHT_COLUMNS, rows)
    return section("Last nights", "nights", tag("div", shown, class_="card"))


def _night(as_of: str, done: Sequence[Mapping[str, Any]]) -> list[Content]:
    stages = [
        tag("span", tag("span", row["subject"], class_="name"), " ",
            tag("span", f"{', '.join(row['stages'])}, {words.plural(row['rows'], 'row')}", class_="what"), class_="of")
        for row in sorted(done, key=lambda row: -row["ended_s_ago"])
    ]  # fmt: skip
    took, ended_s = sum(row["seconds"] for row in done), min(row["ended_s_ago"] for row in done)
    return [as_of, stages, words.span(took), f"{words.span(max(0, ended_s))} ago"]


def workers_section(reader: Mapping[str, Any]) -> Markup:
    workers = reader["workers"]
    rows = [
        [str(row["pid"]), row["state"], words.count(row["requests"]), words.size(row["memory_bytes"])]
        for row in workers["processes"]
    ]
    told = [
        f"{workers['alive']} of {words.plural(workers['wanted'], 'worker')}",
        f"{words.plural(workers['restarts'], 'unexpected end')}",
        f"{words.plural(reader['connections'], 'open connection')}",
    ]
    if reader["bodies_refused"]:
        told.append(f"{words.plural(reader['bodies_refused'], 'body', 'bodies')} refused for lack of memory")
    if reader["token_file_errors"]:
        told.append(f"{words.plural(reader['token_file_errors'], 'failed reload')} of the token file")
    shown = table("Worker processes", _WORKER_COLUMNS, rows)
    return section("Workers", "workers", tag("div", tag("p", " · ".join(told), class_="told"), shown, class_="card"))


_STREAM_COLUMNS = (
    TableColumn("Name"), TableColumn("State"), TableColumn("Waiting", right=True), TableColumn("Rows", right=True),
    TableColumn("Delay (half, 99 %)", right=True), TableColumn("Committed", right=True),
    TableColumn("Bad", right=True), TableColumn("Late", right=True), TableColumn("Live layers", long=True),
)  # fmt: skip
_STREAM_STATES = {"runs": "well", "stopped": "warning", "never ran": "warning", "died": "critical"}


def streams_section(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The declared streams; None if there are none."""
    if not rows:
        return None
    shown = table("Streams and the live layers that they feed", _STREAM_COLUMNS, [_stream(row) for row in rows])
    return section("Streams", "streams", tag("div", shown, class_="card"))


def _stream(row: Mapping[str, Any]) -> list[Content]:
    about = f"topic {row['topic']}, engine {row['engine']}, {row['freshness']}"
    name = join_content([tag("span", row["name"], class_="name"), tag("span", about, class_="about")])
    colour = "warning" if row["state"] == "runs" and row["not_well"] else _STREAM_STATES[row["state"]]
    layers = [
        tag("span", tag("span", each["store"], class_="name"), " ",
            tag("span", words.live_layer(each, row["committed_version"]), class_="what"), class_="of")
        for each in row["layers"]
    ]  # fmt: skip
    return [
        name, tag("span", row["state"], class_=f"chip {colour}"), words.count(row["lag_events"]),
        f"{words.rate(row['rows_per_s'])} /s", words.delays(row), words.ago(row["committed_s_ago"]),
        words.count(row["bad"]), words.count(row["late"]), layers or "–",
    ]  # fmt: skip
