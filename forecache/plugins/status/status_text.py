"""The status as text for a terminal of 80 columns."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forecache.cli.output import (
    WIDTH,
    Line,
    format_table,
    streams_table,
    wrap,
)
from forecache.kit import format_text as words


def format_status(status: Mapping[str, Any]) -> str:
    """The text of `forecache status` for its document (`reader`, `why_no_reader`, `project`, `attention`)."""
    lines = list(_attention_lines(status["attention"]))
    if status["reader"] is not None:
        lines += ["", *_reader_lines(status["url"], status["reader"])]
    elif status["why_no_reader"]:
        lines += ["", *wrap(status["why_no_reader"])]
    if status["project"] is not None:
        lines += ["", *_project_lines(status["project"], with_versions=status["reader"] is None)]
    return "\n".join(lines).strip("\n")


def _attention_lines(found: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    if not found:
        yield "All is well."
    for each in found:
        sign = "!!" if each["severity"] == "critical" else "! "
        yield from textwrap.wrap(f"{sign} {each['what']}", WIDTH, subsequent_indent="   ", break_long_words=False)
        yield from textwrap.wrap(each["remedy"], WIDTH, initial_indent="   ", subsequent_indent="   ")


def _reader_lines(url: str, document: Mapping[str, Any]) -> Iterator[Line]:
    reader, traffic = document["reader"], document["traffic"]
    workers = reader["workers"]
    yield f"READER {url}: {words.headline(document['state'], document['ready']).lower()}"
    yield (
        f"{workers['alive']} of {words.plural(workers['wanted'], 'worker')}, up {words.span(reader['uptime_s'])}, "
        f"{words.plural(workers['restarts'], 'unexpected end')}, {words.size(reader['memory_bytes'])}"
    )
    window = words.span(traffic["window_s"])
    failed = words.count(traffic["server_errors"]) if traffic["server_errors"] else "none"
    p50, p99 = words.microseconds(traffic["p50_us"]), words.microseconds(traffic["p99_us"])
    asked = f"{words.rate(traffic['per_s'])} requests/s"
    yield from wrap(f"{asked}; in the last {window}: p50 {p50}, p99 {p99}, {failed} failed")
    if document["versions"]:
        yield ""
        yield from format_table(
            ("served", "state", "version", "as of", "age", "asked", "found"),
            [
                (row["name"], row["state"], words.count(row["version"]), row["as_of"] or "–", words.span(row["age_s"]),
                 f"{words.rate(row['keys_per_s'])} /s", words.percent(row["found_share"]))
                for row in document["versions"]
            ],
            right=(2, 4, 5, 6),
        )  # fmt: skip
    if document["models"]:
        yield ""
        yield from format_table(
            ("model", "state", "release", "answers", "p99", "in time", "cache", "log lost"),
            [_model_row(row) for row in document["models"]],
            right=(2, 3, 4, 5, 6, 7),
        )
        yield from (line for row in document["models"] for line in _model_details(row))


def _model_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    in_time = words.percent(row["in_time"] / row["answers"]) if row["answers"] else "–"
    lost = words.count(sum(row["log"]["lost"].values())) if row["log"] else "–"
    return (
        row["name"], row["state"], words.count(row["release"]), f"{words.rate(row['per_s'])} /s",
        words.microseconds(row["p99_us"]), in_time, words.percent(row["cache_hit_share"]), lost,
    )  # fmt: skip


def _model_details(row: Mapping[str, Any]) -> Iterator[Line]:
    """The lines of a model below the table: fallbacks of its scores, drift, and its rollout."""
    total = sum(row["answered_by_counts"].values())
    if total:
        shares = ", ".join(
            f"{words.reason(name)} {words.percent(n / total)}" for name, n in row["answered_by_counts"].items()
        )
        why = ", ".join(f"{words.reason(name)} {words.count(n)}" for name, n in row["fallback_reasons"].items())
        yield from wrap(f"{row['name']}: scores from {shares}{f'; without the model: {why}' if why else ''}")
    yield from wrap(f"{row['name']}: drift: {words.drift(row['drift'])}")
    if row["rollout"] is not None:
        yield from wrap(f"{row['name']}: {words.rollout(row['rollout'])}")


def _project_lines(project: Mapping[str, Any], *, with_versions: bool) -> Iterator[Line]:
    yield "LAST RUNS"
    nights = project["nights"]
    if nights["rows"]:
        rows = [
            (row["as_of"], row["subject"], words.count(row["rows"]), words.span(row["seconds"]),
             f"{words.span(max(0, row['ended_s_ago']))} ago", ", ".join(row["stages"]))
            for row in nights["rows"]
        ]  # fmt: skip
        yield from format_table(("as of", "of", "rows", "took", "ended", "done"), rows, right=(2, 3, 4))
    else:
        yield from wrap(nights["why"].replace("`", ""))
    if project["streams"]:
        yield from ("", "STREAMS", *streams_table(project["streams"]))
    if with_versions and project["versions"]:
        yield from ("", "PUBLISHED")
        versions = [
            (row["name"], f"{row['version']}{' pinned' if row['pinned'] else ''}", row["as_of"],
             words.span(row["age_s"]), words.count(row["keys"]), "stale" if row["stale"] else "fresh")
            for row in project["versions"]
        ]  # fmt: skip
        yield from format_table(("name", "version", "as of", "age", "keys", ""), versions, right=(3, 4))
        yield from _stale_without_alert(project["versions"])
    for row in project["versions"]:
        if "kept_for" in row:
            yield from wrap(f"{row['name']} is kept for {' and '.join(row['kept_for']) or 'a rollback'}.")
    if with_versions and project["releases"]:
        yield from ("", "RELEASES")
        releases = [
            (row["name"], str(row["release"]), "{name} {version}".format(**row["model"]), row["created_at"][:10])
            for row in project["releases"]
        ]
        yield from format_table(("model", "release", "model version", "made"), releases, right=(1,))


def _stale_without_alert(versions: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    """The reason why versions may be stale although "All is well." is shown."""
    ended = ", ".join(row["name"] for row in versions if row["no_alert"] == "ended")
    undeclared = ", ".join(row["name"] for row in versions if row["no_alert"] == "undeclared")
    if ended:
        yield from wrap(f"Stale, but nothing is wrong: these have the last data of their sources: {ended}.")
    if undeclared:
        yield from wrap(f"Stale, but no alert: no module of the project that can be loaded declares {undeclared}.")
