"""`forecache explain`: follow a served answer back to its data, its model, its runs and its code."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import click

from forecache.cli.base import DateParam, command, settings
from forecache.cli.output import format_cell, format_duration, make_console, show, show_table
from forecache.cli.resolve_names import find_published, is_stream_only
from forecache.plugins.explain.chain_text import MOST_ITEMS, chain_parts
from forecache.plugins.explain.trace import trace, trace_list, trace_stream, trace_view

if TYPE_CHECKING:
    from rich.tree import Tree

    from forecache.base.settings import Settings


@command(
    "explain",
    examples="forecache explain churn 00001\nforecache explain churn 00001 --version 17 --json\n"
    "forecache explain recommended 1234\nforecache explain search 4f0c1d --item p12",
)
@click.argument("name", metavar="NAME")
@click.argument("key", metavar="KEY|REQUEST_ID")
@click.option("--version", type=int, help="For a pipeline: a retained store version; default: the served one.")
@click.option("--item", help="For a real-time model: the candidate to explain; default: the first of the answer.")
@click.option(
    "--date",
    "day",
    type=DateParam(),
    help="For a real-time model: the request's date in UTC, to read less of the log.",
)
@click.option(
    "--most", type=click.IntRange(min=1), default=10, show_default=True, help="Candidates and features that are shown."
)
def explain(name: str, key: str, version: int | None, item: str | None, day: date | None, most: int) -> None:
    """Follow an answer back to what led to it.

    For a pipeline, it shows the answer for KEY: store version, prediction, features, raw events, model, run and code.
    Of a live answer, it also shows the row of the stream's table, and its partition and offset in Kafka.
    For a real-time model, it shows the logged answer to REQUEST_ID: its release, what answered, times and store
    versions, the features as the model got them, what each contributed, and what the same request would get today.
    """
    current = settings()
    if _is_realtime(current, name):
        if version is not None:
            raise click.UsageError(f"{name} is a real-time model: --version is of pipelines. Leave it out.")
        found = find_explanation(current, name, key, item=item, day=day)
        show(found, lambda: show_explained_answer(found, most=most))
        return
    if item is not None or day is not None:
        raise click.UsageError(f"{name} is no real-time model: --item and --date are of those. Leave them out.")
    chain = find_explanation(current, name, key, version=version)
    show(chain, lambda: make_console().print(_chain_tree(name, chain)))


def find_explanation(
    current: "Settings",
    name: str,
    key: str,
    *,
    version: int | None = None,
    item: str | None = None,
    day: date | None = None,
) -> dict[str, Any]:
    """The chain behind an answer, as JSON values: of a real-time model as `explain_answer`, else a chain as of `trace`.

    `item` and `day` are of real-time models, `version` is of all others.
    """
    from forecache.declare import FeatureView, Pipeline

    if _is_realtime(current, name):
        from forecache.plugins.explain.explain import explain_answer

        return explain_answer(current, name, key, item=item, day=day)
    if is_stream_only(current, name):
        return trace_stream(current, name, key)
    served = find_published(current, name, or_model=True)
    if isinstance(served, FeatureView):
        return trace_view(current, served, key, version=version)
    if isinstance(served, Pipeline):
        return trace(current, served, key, version=version)
    return trace_list(current, served, key, version=version)


def explained_parts(current: "Settings", name: str, key: str) -> tuple[str, list[tuple[str, list[str]]]]:
    """The answer for a key or to a request in a line, and each link behind it: its title and lines."""
    found = find_explanation(current, name, key)
    if "explained" not in found:
        return chain_parts(name, found)
    explained = found["explained"]
    return _answer_title(found), [
        ("at its time", [*_answer_lines(found), *_store_lines(found["stores"])]),
        ("today", _today_lines(found)),
        (
            f"features of {explained['item'] or 'the request'}",
            [*_feature_lines(explained["features"]), *_contribution_text(explained["contributions"]).splitlines()],
        ),
    ]


def _is_realtime(current: "Settings", name: str) -> bool:
    """True for the name of a real-time model, also if there are only releases or a log of it here."""
    from forecache.declare.loading import read_project
    from forecache.kit.delta.tables import table_exists
    from forecache.realtime.log.record import table_of
    from forecache.realtime.release.folder import open_releases

    if open_releases(current, name).root.is_dir():
        return True
    project = read_project(current)
    return name in project.realtime or (name not in project.publishable and table_exists(current, table_of(name)))


def _chain_tree(pipeline: str, chain: dict[str, Any]) -> "Tree":
    from rich.markup import escape
    from rich.tree import Tree

    head, parts = chain_parts(pipeline, chain)
    tree = Tree(f"[bold]{escape(head)}[/bold]")
    for title, lines in parts:
        branch = tree.add(f"[bold]{escape(title)}[/bold]" if lines else escape(title))
        for line in lines:
            branch.add(escape(line))
    return tree


def show_explained_answer(found: Mapping[str, Any], *, most: int) -> None:
    """Print what `explain_answer` found, with so many candidates and features at most."""
    from rich.markup import escape
    from rich.tree import Tree

    tree = Tree(f"[bold]{escape(_answer_title(found))}[/bold]")
    for line in [*_answer_lines(found), *_store_lines(found["stores"])]:
        tree.add(escape(line))
    branch = tree.add("[bold]today[/bold]")
    for line in _today_lines(found):
        branch.add(escape(line))
    make_console().print(tree)
    if found["candidates"]:
        _show_candidates(found["candidates"], most)
    if found["explained"]["features"]:
        _show_features(found["explained"], most)
    make_console().print(escape(_contribution_text(found["explained"]["contributions"])))


def _answer_title(found: Mapping[str, Any]) -> str:
    explained, candidates = found["explained"], found["candidates"]
    text = f"{found['name']}, request {found['request_id']}: "
    if candidates is None:
        return f"{text}score {_format_figure(explained['score'])}"
    if not candidates:
        return f"{text}no candidates"
    position = next(each["position"] for each in candidates if each["item"] == explained["item"])
    return (
        f"{text}{explained['item']} at position {position} of {len(candidates)}, score "
        f"{_format_figure(explained['score'])}"
    )


def _answer_lines(found: Mapping[str, Any]) -> list[str]:
    times = ", ".join(f"{name} {us / 1e3:g}" for name, us in found["times_us"].items() if us and name != "total")
    total, late = found["times_us"]["total"] / 1e3, ", late" if found["late"] else ""
    reason = found["fallback_reason"]
    unasked = f", as the model did not answer: {reason}" if reason else ""
    lines = [
        f"answered {found['arrived_at'][:19]}Z by release {found['release']}, {_model(found)}, "
        f"variant {found['variant']}",
        f"answered by {found['answered_by']}{unasked}",
        f"took {total:g} ms of {found['deadline_ms']:g}{late} ({times}), at {found['replica']}",
    ]
    lines += [f"flag: {flag}" for flag in found["warnings"] or ()]
    lines += [
        f"also logged: variant {each['variant']}, release {each['release']}, {format_cell(each['arrived_at'])}"
        for each in found["also_logged"]
    ]
    return lines


def _model(found: Mapping[str, Any]) -> str:
    runtime = f" ({found['model_runtime']})" if found["model_runtime"] else ""
    return f"model version {found['model_version']}{runtime}"


def _store_lines(stores: Sequence[Mapping[str, Any]] | None) -> list[str]:
    return [
        f"read {each['name']} version {each['version']}, as of {each['as_of']}, {format_duration(each['age_s'])} old"
        for each in stores or ()
    ]


def _today_lines(found: Mapping[str, Any]) -> list[str]:
    now = found["today"]
    if "missing" in now:
        return [f"not available: {now['missing']}"]
    why = (
        f", as the model does not answer: {now['problem'] or now['fallback_reason']}" if now["fallback_reason"] else ""
    )
    then = found["explained"]["score"]
    lines = [
        f"release {now['release']}, {_model(now)}, answered_by {now['answered_by']}{why}",
        f"score {_format_figure(now['score'])}, then {_format_figure(then)}",
    ]
    return lines + [f"flag: {flag}" for flag in now["warnings"]] + _store_lines(now["stores"])


def _feature_lines(features: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = [
        f"{each['name']} = {_format_figure(each['value'])}"
        + (f": {_format_signed(each['contribution'], each.get('error'))}" if "contribution" in each else "")
        for each in features[:MOST_ITEMS]
    ]
    more = len(features) - MOST_ITEMS
    return [*shown, f"and {more:,} more"] if more > 0 else shown


def _show_candidates(candidates: Sequence[Mapping[str, Any]], most: int) -> None:
    rows = [
        (
            each["position"],
            str(each["item"]),
            _format_figure(each["score"]),
            each["answered_by"],
            each["position_today"],
            _format_figure(each["score_today"]),
        )
        for each in candidates[:most]
    ]
    columns = ("position", "item", "score", "answered_by", "today", "score today")
    show_table(columns, rows, title="Candidates", right=("position", "score", "today", "score today"))
    if len(candidates) > most:
        click.echo(f"and {len(candidates) - most:,} more (--most, --json)\n")


def _show_features(explained: Mapping[str, Any], most: int) -> None:
    features = explained["features"]
    rows = [
        (
            each["name"],
            _format_figure(each["value"]),
            _format_signed(each.get("contribution"), each.get("error")),
            _format_figure(each["today"]) if "today" in each else "-",
            _format_change(each),
        )
        for each in features[:most]
    ]
    title = "Features" if explained["item"] is None else f"Features of {explained['item']}"
    right = ("value", "contribution", "today", "change")
    show_table(("feature", *right), rows, title=title, right=right)
    if len(features) > most:
        rest = [each for each in features[most:] if each.get("changed")]
        click.echo(f"and {len(features) - most:,} more, of which {len(rest):,} changed (--most, --json)\n")


def _format_change(each: Mapping[str, Any]) -> str:
    if each.get("only_today"):
        return "new"
    if "today" not in each:
        return "-"
    if not each["changed"]:
        return ""
    change = each["change"]
    return "changed" if change is None else _format_signed(change, None)


def _contribution_text(about: Mapping[str, Any]) -> str:
    if "missing" in about:
        return f"No contributions: {about['missing']}"
    return (
        f"Contributions: {about['method']}.\nBackground: {about['background']}.\n"
        f"Base {_format_figure(about['base'])} and all contributions are the {about['scale']} "
        f"{_format_figure(about['sum'])}." + ("" if about["exact"] else "\n± is the standard error of what was drawn.")
    )


def _format_figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.5g}"


def _format_signed(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:+.4g}" + (f" ± {error:.1g}" if error else "")
