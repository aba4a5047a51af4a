"""Print an explained logged answer of a real-time model for people."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from forecache.cli.output import format_cell, format_duration, make_console, show_table


def show_explained_answer(found: Mapping[str, Any], *, most: int) -> None:
    """Print what `forecache.plugins.explain.explain.explain_answer` found.

    Args:
        most: Most candidates, and most features, that are shown.
    """
    from rich.markup import escape
    from rich.tree import Tree

    tree = Tree(f"[bold]{escape(_title(found))}[/bold]")
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


def _title(found: Mapping[str, Any]) -> str:
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
    lines = [
        f"answered {found['arrived_at'][:19]}Z by release {found['release']}, {_model(found)}, arm {found['arm']}",
        f"rung {found['rung']}{', as the model did not answer: ' + found['why'] if found['why'] else ''}",
        f"took {total:g} ms of {found['deadline_ms']:g}{late} ({times}), at {found['replica']}",
    ]
    lines += [f"flag: {flag}" for flag in found["flags"] or ()]
    lines += [
        f"also logged: arm {each['arm']}, release {each['release']}, {format_cell(each['arrived_at'])}"
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
    why = f", as the model does not answer: {now['problem'] or now['why']}" if now["why"] else ""
    then = found["explained"]["score"]
    lines = [
        f"release {now['release']}, {_model(now)}, rung {now['rung']}{why}",
        f"score {_format_figure(now['score'])}, then {_format_figure(then)}",
    ]
    return lines + [f"flag: {flag}" for flag in now["flags"]] + _store_lines(now["stores"])


def _show_candidates(candidates: Sequence[Mapping[str, Any]], most: int) -> None:
    rows = [
        (
            each["position"],
            str(each["item"]),
            _format_figure(each["score"]),
            each["rung"],
            each["position_today"],
            _format_figure(each["score_today"]),
        )
        for each in candidates[:most]
    ]
    columns = ("position", "item", "score", "rung", "today", "score today")
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
