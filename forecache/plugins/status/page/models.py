"""The section of real-time models: a card for each, with the shares of model and fallbacks, and the reasons."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forecache.plugins.status.page import charts
from forecache.plugins.status.page.markup import Content, Markup, section, tag
from forecache.serve.reader.status import format_text as words

_PARTS = ("part1", "part2", "part3", "part4", "part5", "part6", "part7")
_RUNGS = {"model": "part1", "dot_product": "part3", "last_night": "part4", "default": "part5", "order_given": "part6"}
_STATES = {"served": ("well", "answers"), "earlier": ("warning", "an earlier release answers"),
           "failed": ("critical", "cannot be served"), "loading": ("warning", "is loading")}  # fmt: skip
_SPARK_STEPS = 5


def models_section(models: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The section; None if there is no model."""
    if not models:
        return None
    cards = tag("div", [_card(model) for model in models], class_="wide cards")
    return section("Real-time models", "models", cards)


def _card(model: Mapping[str, Any]) -> Markup:
    state, told = _STATES[model["state"]]
    head = tag(
        "header",
        tag("h3", model["name"]),
        tag("span", told, class_=f"chip {state}"),
        _sparkline(model),
    )
    facts = tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in _facts(model)], class_="facts")
    return tag("article", head, tag("p", _release(model), class_="told"), facts, list(_parts(model)), class_="card")


def _sparkline(model: Mapping[str, Any]) -> Markup | None:
    values = charts.average_every(model["series"]["per_s"], _SPARK_STEPS)
    return (
        charts.sparkline(values, label=f"Answers per second of {model['name']} in the last 10 minutes")
        if values
        else None
    )


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
        yield _shares("Scores are from", [(words.reason(name), number, _RUNGS.get(name, "part7"))
                                          for name, number in model["rungs"].items()])  # fmt: skip
        if model["why"]:
            reasons = sorted(model["why"].items(), key=lambda each: -each[1])
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
        told.append(
            f"; committed {words.span(log['committed_s_ago'])} ago, {words.span(log['commit_delay_s'])} after arrival"
        )
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
