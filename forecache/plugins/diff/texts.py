"""Differences as text for people, and as Markdown that fits into a pull request."""

from collections.abc import Iterator, Sequence
from typing import Any

import click

from forecache.cli.output import format_cell, show_table
from forecache.kit import format_text as words
from forecache.plugins.diff.compare_partitions import ColumnDiff
from forecache.plugins.diff.environment_diff import EnvironmentDiff, NameDiff, TableDiff
from forecache.plugins.diff.model_diff import ModelDiff

SHIFTED = 0.25
"""Population stability index from which a distribution is said to have moved."""
_MOST_COLUMNS = 12
COLUMNS = ("column", "changed", "mean before", "mean after", "median before", "median after", "PSI", "rank correlation")
_RIGHT = COLUMNS[1:]


def summary(found: EnvironmentDiff) -> str:
    """Sum up in a sentence what differs, and in a second one what neither side has."""
    absent = f" Neither side has rows of {', '.join(found.absent)}." if found.absent else ""
    if not found.names:
        return f"Nothing differs between {found.before} and {found.after}.{absent}"
    return (
        f"{words.plural(len(found.names), 'name')} of {len(found.names) + len(found.equal)} differ between "
        f"{found.before} and {found.after}: {', '.join(each.name for each in found.names)}.{absent}"
    )


def show_text(found: EnvironmentDiff) -> None:
    """Print what differs for people."""
    click.echo(summary(found))
    for each in found.names:
        dates = f"{each.before}" if each.before == each.after else f"{each.before} -> {each.after}"
        click.echo(f"\n{click.style(each.name, bold=True)} ({each.kind}), as of {dates}")
        for line in lines_of(each):
            click.echo(f"  {line}")
        for table in each.tables:
            click.echo(f"  {table.about.table}: {rows_text(table)}")
            for reason in table.reasons:
                click.echo(f"    because {reason}")
            columns = changed_columns(table)
            if columns:
                shown = [column_row(column) for column in columns[:_MOST_COLUMNS]]
                caption = f"and {len(columns) - _MOST_COLUMNS} more columns" if len(columns) > _MOST_COLUMNS else ""
                show_table(COLUMNS, shown, right=_RIGHT, caption=caption)
            _show_movers(table)
        _show_explained(each.explained)


def lines_of(found: NameDiff) -> Iterator[str]:
    """Sentences on the answers, the models, the stores and the requests of a name."""
    if found.answers:
        yield f"{words.percent(found.changed_share)} of the answers change."
    if found.models is not None:
        yield from _model_lines(found)
    yield from (each["sentence"] for each in found.served)
    if found.requests:
        yield found.requests["sentence"]


def _model_lines(found: NameDiff) -> Iterator[str]:
    models = found.models
    assert models is not None
    if models.differ:
        sides = [
            "none" if each is None else f"version {each['version']} ({each['gate']})"
            for each in (models.before, models.after)
        ]
        yield f"Champion: {sides[0]} -> {sides[1]}."
    if models.metrics:
        yield f"On {models.rows:,} rows that the test splits of both have: {', '.join(metric_texts(found))}."
    if models.missing:
        yield f"No metrics on the same rows: {models.missing}"
    if models.failed_gate:
        yield f"{models.failed_gate}."


def metric_texts(found: NameDiff) -> list[str]:
    models = found.models
    assert models is not None
    return [
        f"{name} {format_cell(models.metrics[name][0])} -> {format_cell(models.metrics[name][1])}"
        + (" (worse)" if is_worse(name, models) else "")
        for name in ordered_metrics(models)
    ]


def ordered_metrics(models: ModelDiff) -> list[str]:
    """The names of the metrics, the one first by which the gate decides."""
    return sorted(models.metrics, key=lambda name: name != models.decided_by)


def is_worse(name: str, models: ModelDiff) -> bool:
    """True if the model after has a worse value of a metric."""
    before, after = models.metrics[name]
    return bool(after > before if name in models.less_is_better else after < before)


def rows_text(table: TableDiff) -> str:
    """The rows of a table that differ, in words."""
    rows = table.rows
    parts = [f"{rows.changed:,} changed", f"{rows.added:,} added", f"{rows.gone:,} gone", f"{rows.unchanged:,} equal"]
    return f"{rows.rows_before:,} -> {rows.rows_after:,} rows: {', '.join(parts)}"


def changed_columns(table: TableDiff) -> list[ColumnDiff]:
    """The columns with changes, answers first, then those whose distribution moved most."""
    some = [each for each in table.rows.columns if each.changed is None or each.changed]
    answers = set(table.about.answers)
    return sorted(some, key=lambda each: (each.name not in answers, -(each.psi or 0.0), each.name))


def column_row(column: ColumnDiff) -> tuple[Any, ...]:
    """The cells of a column for the columns of `COLUMNS`."""
    sides = (column.before, column.after)
    if not column.type_before or not column.type_after:
        changed = "new" if column.type_after else "gone"
    else:
        changed = f"{column.changed:,}"
    means = [None if side is None or side.mean is None else figure(side.mean) for side in sides]
    medians = [None if side is None or 0.5 not in side.quantiles else figure(side.quantiles[0.5]) for side in sides]
    ranks = column.rank_correlation if column.overlap is None else None
    shown = figure(ranks) if ranks is not None else None
    if column.overlap is not None:
        shown = f"overlap {column.overlap:.3f}"
    return (column.name, changed, *means, *medians, None if column.psi is None else f"{column.psi:.3f}", shown)


def figure(value: float | None) -> str | None:
    """A number with five significant digits; None stays."""
    if value is None:
        return None
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"


def value_text(value: Any) -> str:
    """A value of a row in a short text."""
    if isinstance(value, float):
        return str(figure(value))
    if isinstance(value, (list, tuple)):
        texts = [value_text(each) for each in value[:4]]
        return f"[{', '.join(texts)}{', …' if len(value) > 4 else ''}]"
    return "null" if value is None else str(value)


def movers_of(table: TableDiff) -> list[tuple[str, str, str, str]]:
    """The largest changes of the answers, or else of the columns that moved most: key, column, before, after."""
    columns = [each for each in changed_columns(table) if each.movers]
    if table.about.answers:
        columns = [each for each in columns if each.name in table.about.answers]
    return [
        ("|".join(mover.key), column.name, value_text(mover.before), value_text(mover.after))
        for column in columns[:1]
        for mover in column.movers
    ]


def _show_movers(table: TableDiff) -> None:
    movers = movers_of(table) if table.about.answers else []
    if movers:
        show_table(("moved most", "column", "before", "after"), movers, right=("before", "after"))


def _show_explained(explained: Sequence[dict[str, Any]]) -> None:
    for each in explained:
        click.echo(f"  {explained_title(each)}")
        if each["features"]:
            rows = [explained_row(feature) for feature in each["features"]]
            show_table(EXPLAINED, rows, right=EXPLAINED[1:])


EXPLAINED = ("feature", "value before", "value after", "adds before", "adds after")


def explained_title(explained: dict[str, Any]) -> str:
    before, after = (value_text(explained[side]) for side in ("before", "after"))
    title = f"Why {explained['output']} of {explained['key']} goes from {before} to {after}"
    return f"{title}: {explained['missing']}" if explained["missing"] else f"{title}:"


def explained_row(feature: dict[str, Any]) -> tuple[Any, ...]:
    names = ("value_before", "value_after", "adds_before", "adds_after")
    return (feature["name"], *(value_text(feature[name]) for name in names))


def render_markdown(found: EnvironmentDiff, *, most: float | None = None) -> str:
    """Write what differs as Markdown: a table of names, and the details of each folded."""
    lines = [f"### What differs between `{found.before}` and `{found.after}`", ""]
    if not found.names:
        return "\n".join([*lines, summary(found)])
    head = ("name", "as of", "answers changed", "rows added, gone", "model", "what moved most")
    lines += _markdown_table(head, [_markdown_row(each, most) for each in found.names])
    lines += [f"Equal: {', '.join(f'`{name}`' for name in found.equal)}.", ""] if found.equal else []
    lines += (
        [f"Neither side has rows of {', '.join(f'`{name}`' for name in found.absent)}.", ""] if found.absent else []
    )
    lines += [f"**{sentence}.**" for sentence in found.failed_gates]
    for each in found.names:
        lines += ["", f"<details><summary>{each.name}</summary>", ""]
        lines += [f"- {line}" for line in lines_of(each)]
        for table in each.tables:
            lines += ["", f"`{table.about.table}`: {rows_text(table)}", ""]
            lines += [f"- because {reason}" for reason in table.reasons]
            columns = changed_columns(table)[:_MOST_COLUMNS]
            lines += ["", *_markdown_table(COLUMNS, [column_row(column) for column in columns])] if columns else []
            movers = movers_of(table) if table.about.answers else []
            if movers:
                lines += ["", *_markdown_table(("moved most", "column", "before", "after"), movers)]
        for explained in each.explained:
            lines += ["", explained_title(explained), ""]
            lines += _markdown_table(EXPLAINED, [explained_row(feature) for feature in explained["features"]])
        lines += ["", "</details>"]
    return "\n".join(lines)


def _markdown_row(found: NameDiff, most: float | None) -> tuple[str, ...]:
    dates = f"{found.before}" if found.before == found.after else f"{found.before} -> {found.after}"
    share = words.percent(found.changed_share) if found.answers else "–"
    if most is not None and found.changed_share > most:
        share = f"**{share}** (at most {words.percent(most)})"
    rows = [(each.rows.added, each.rows.gone) for each in (found.answers or found.tables)]
    moved = [f"+{sum(a for a, _ in rows):,}, -{sum(b for _, b in rows):,}"] if rows else ["–"]
    models = found.models
    model = "same"
    if models is None:
        model = "–"
    elif models.differ:
        versions = ["none" if each is None else str(each["version"]) for each in (models.before, models.after)]
        texts = metric_texts(found)
        model = f"{' -> '.join(versions)}" + (f", {texts[0]}" if texts else "")
    columns = [
        (column.psi or 0.0, f"`{column.name}` (PSI {column.psi:.2f})")
        for table in found.tables
        for column in changed_columns(table)
        if column.psi
    ]
    largest = ", ".join(dict.fromkeys(text for _, text in sorted(columns, reverse=True)[:3]))
    return (f"`{found.name}`", dates, share, *moved, model, largest or "–")


def _markdown_table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    if not rows:
        return []
    cells = [["–" if cell is None else str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return [
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
        *(f"| {' | '.join(row)} |" for row in cells),
        "",
    ]
