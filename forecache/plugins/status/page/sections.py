"""The sections of the page below the charts: versions, streams with their live layers, as-of dates, workers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forecache.kit import format_text as words
from forecache.plugins.status.page import charts
from forecache.plugins.status.page.markup import Content, Markup, mark_code, section, table, tag

_STATES = {"served": "well", "stale": "warning", "waiting": "warning", "fallback": "warning", "refused": "critical",
           "damaged": "critical", "unreadable": "critical"}  # fmt: skip
_VERSION_COLUMNS = ("Name", "State", "Version", "As of", "Age", "Allowed", "Keys", "Size", "Keys asked", "Found")
_STREAM_COLUMNS = ("Name", "State", "Waiting", "Rows", "Delay (half, 99 %)", "Committed", "Bad", "Late", "Live layers")


def versions_section(rows: Sequence[Mapping[str, Any]]) -> Markup:
    if not rows:
        empty = "No pipeline or view has a store here. The first `forecache publish` makes one."
        return section("Served from the store", "versions", tag("p", mark_code(empty), class_="empty"))
    shown = table("Pipelines and feature views", _VERSION_COLUMNS, map(_version, rows), right=(2, 4, 5, 6, 7, 8, 9))
    return section("Served from the store", "versions", tag("div", shown, class_="card"))


def _version(row: Mapping[str, Any]) -> list[Content]:
    model = "model {name} {version}".format(**row["model"]) if row["model"] else ""
    about = "feature view" if row["kind"] == "view" else model
    if row["stale"] and not row["overdue"]:
        about = f"{about}, the last of its sources" if about else "the last of its sources"
    name = [_name(row["name"]), tag("span", about, class_="about") if about else None]
    state = tag("span", row["state"], class_=f"chip {_STATES[row['state']]}")
    served = row["version"] is not None
    allowed = f"{row['max_age_h']:g} h" if served else "–"
    size = words.size(row["size_bytes"]) if served else "–"
    return [
        name, state, words.count(row["version"]), row["as_of"] or "–", words.span(row["age_s"]), allowed,
        words.count(row["keys"]), size, f"{words.rate(row['keys_per_s'])} /s", words.percent(row["found_share"]),
    ]  # fmt: skip


def _name(name: str, leads_to: str | None = "status/") -> Markup:
    """A name that leads to its page, if there is one."""
    if leads_to is None:
        return tag("span", name, class_="name")
    return tag("a", name, href=f"{leads_to}{name}", class_="name")


def nights_section(nights: Mapping[str, Any] | None) -> Markup | None:
    if nights is None:
        return None
    if not nights["rows"]:
        return section("Last runs", "nights", tag("p", mark_code(nights["why"]), class_="empty"))
    nights_of: dict[str, list[Mapping[str, Any]]] = {}
    for row in nights["rows"]:
        nights_of.setdefault(row["as_of"], []).append(row)
    rows = [_night(as_of, done) for as_of, done in nights_of.items()]
    caption, titles = "What was done for the last as-of dates", ("As of", "Done", "Took", "Ended")
    shown = table(caption, titles, rows, right=(2, 3), long=(1,))
    return section("Last runs", "nights", tag("div", shown, class_="card"))


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
    shown = table("Worker processes", ("Process", "State", "Answered", "Memory"), rows, right=(2, 3))
    return section("Workers", "workers", tag("div", tag("p", " · ".join(told), class_="told"), shown, class_="card"))


_STREAM_STATES = {"runs": "well", "stopped": "warning", "never ran": "warning", "died": "critical"}


def streams_section(rows: Sequence[Mapping[str, Any]], *, leads_to: str | None = "status/") -> Markup | None:
    """The streams; `leads_to` is the address of the pages on names, None without them."""
    if not rows:
        return None
    caption = "Streams and the live layers that they feed"
    shown = table(caption, _STREAM_COLUMNS, [_stream(row, leads_to) for row in rows], right=range(2, 8), long=(8,))
    return section("Streams", "streams", tag("div", shown, class_="card"))


def _stream(row: Mapping[str, Any], leads_to: str | None) -> list[Content]:
    about = f"topic {row['topic']}, engine {row['engine']}, {row['freshness']}"
    name = [_name(row["name"], leads_to), tag("span", about, class_="about")]
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


_PARTS = ("part1", "part2", "part3", "part4", "part5", "part6", "part7")
_ANSWERED_BY = {
    "model": "part1",
    "dot_product": "part3",
    "precomputed": "part4",
    "default": "part5",
    "order_given": "part6",
}
_MODEL_STATES = {"served": ("well", "answers"), "earlier": ("warning", "an earlier release answers"),
           "failed": ("critical", "cannot be served"), "loading": ("warning", "is loading")}  # fmt: skip
_SPARK_STEPS = 5


def models_section(models: Sequence[Mapping[str, Any]]) -> Markup | None:
    cards = tag("div", map(_card, models), class_="wide cards")
    return section("Real-time models", "models", cards) if models else None


def _card(model: Mapping[str, Any]) -> Markup:
    state, told = _MODEL_STATES[model["state"]]
    head = tag("header", tag("h3", _name(model["name"])), tag("span", told, class_=f"chip {state}"), _sparkline(model))
    facts = tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in _facts(model)], class_="facts")
    return tag("article", head, tag("p", _release(model), class_="told"), facts, list(_parts(model)), class_="card")


def _sparkline(model: Mapping[str, Any]) -> Markup | None:
    values = charts.average_every(model["series"]["per_s"], _SPARK_STEPS)
    label = f"Answers per second of {model['name']} in the last 10 minutes"
    return charts.sparkline(values, label=label) if values else None


def _release(model: Mapping[str, Any]) -> str:
    if model["release"] is None:
        return "No release of it answers."
    of = model["model"]
    where = "on the event loop" if model["runs"] == "loop" else "in processes of its own"
    release = f"Release {model['release']} · model {of['name']}, version {of['version']} · runs {where}"
    if len(model["releases"]) > 1:
        release += f" · workers change over from release {model['releases'][0]}"
    return release


def _facts(model: Mapping[str, Any]) -> Iterator[tuple[str, Content]]:
    answers = model["answers"]
    yield "Answers", f"{words.rate(model['per_s'])} /s"
    yield "Half within", words.microseconds(model["p50_us"])
    yield "99 % within", words.microseconds(model["p99_us"])
    if model["deadline_ms"] is not None:
        yield "Deadline", words.microseconds(model["deadline_ms"] * 1000)
    yield "In time", words.percent(model["in_time"] / answers) if answers else "–"
    yield "Late", words.count(model["late"])
    if model["cached"]:
        yield "Cache", f"{words.percent(model['cache_hit_share'])} hits, {words.size(model['cache_bytes'])}"
    if model["runs"] == "process":
        yield "Processes", f"{model['processes']}, {model['processes_replaced']} replaced"
    if model["flagged"]:
        yield "Flagged", words.count(model["flagged"])


def _parts(model: Mapping[str, Any]) -> Iterator[Markup]:
    """Shares of fallbacks and of stages, then the request log, drift and rollout."""
    if not model["answers"]:
        yield tag("p", f"No request in the last {words.span(model['window_s'])}.", class_="empty")
    else:
        yield _shares("Scores are from", [(words.reason(name), number, _ANSWERED_BY.get(name, "part7"))
                                          for name, number in model["answered_by_counts"].items()])  # fmt: skip
        if model["fallback_reasons"]:
            reasons = sorted(model["fallback_reasons"].items(), key=lambda each: -each[1])
            listed = ", ".join(f"{words.reason(name)} {words.count(number)}" for name, number in reasons)
            yield _line("Without the model", listed)
        stages = [(name, time) for name, time in model["stages_us"].items() if time > 0]
        yield _shares("Time goes to", [(name, time, _PARTS[place]) for place, (name, time) in enumerate(stages)],
                      shown=words.microseconds)  # fmt: skip
    if model["log"] is not None:
        yield _line("Request log", _log(model["log"]))
    yield _line("Drift", words.drift(model["drift"]))
    if model["rollout"] is not None:
        yield _line("Rollout", words.rollout(model["rollout"]))


def _log(log: Mapping[str, Any]) -> list[Content]:
    lost = sum(log["lost"].values())
    told: list[Content] = [f"{words.count(log['taken'])} taken, {words.count(log['committed'])} in the lake, "]
    if lost:
        why = ", ".join(f"{name} {words.count(number)}" for name, number in log["lost"].items())
        told.append(tag("strong", f"{words.count(lost)} lost ({why})", class_="bad"))
    else:
        told.append("none lost")
    if log["committed_s_ago"] is not None:
        ago, delay = words.span(log["committed_s_ago"]), words.span(log["commit_delay_s"])
        told.append(f"; committed {ago} ago, {delay} after arrival")
    if log["spool_bytes"]:
        told.append(f"; {words.size(log['spool_bytes'])} wait in the spool")
    return told


def _shares(title: str, parts: Sequence[tuple[str, float, str]], shown: Any = None) -> Markup:
    total = sum(value for _, value, _ in parts) or 1.0
    texts = [f"{name} {shown(value) if shown else words.percent(value / total)}" for name, value, _ in parts]
    bar = charts.share_bar([(part, value) for _, value, part in parts], label=f"{title}: {', '.join(texts)}")
    keys = [
        tag("li", tag("span", class_=f"key {part}", aria_hidden="true"), text)
        for text, (_, _, part) in zip(texts, parts, strict=True)
    ]
    return tag("div", tag("p", title, class_="title"), bar, tag("ul", keys, class_="keys"), class_="split")


def _line(title: str, told: Content) -> Markup:
    return tag("p", tag("span", title, class_="title"), " ", told, class_="line")
