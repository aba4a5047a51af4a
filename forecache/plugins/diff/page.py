"""The page of a comparison: one HTML file with plots, without anything from elsewhere."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from forecache.base.reports import make_page
from forecache.base.reports import write_page as write
from forecache.kit import format_text as words
from forecache.plugins.diff.compare_partitions import ColumnDiff
from forecache.plugins.diff.environment_diff import EnvironmentDiff, NameDiff, TableDiff
from forecache.plugins.diff.plots import contribution_plot, distribution_plot
from forecache.plugins.diff.texts import (
    COLUMNS,
    SHIFTED,
    changed_columns,
    column_row,
    explained_row,
    explained_title,
    figure,
    is_worse,
    lines_of,
    movers_of,
    ordered_metrics,
    rows_text,
    summary,
)

_MOST_PLOTS = 8


def write_page(path: Path, found: EnvironmentDiff) -> None:
    """Write the page."""
    write(path, render_page(found))


def render_page(found: EnvironmentDiff) -> str:
    """The page as HTML."""
    return make_page(
        Path(__file__).parent / "diff_page.html.j2",
        environment="",  # the heading names both
        found=found,
        sentence=summary(found),
        names=[_name(each) for each in found.names],
        titles=COLUMNS,
    )


def _name(found: NameDiff) -> dict[str, Any]:
    dates = f"{found.before}" if found.before == found.after else f"{found.before} to {found.after}"
    return {
        "name": found.name,
        "kind": found.kind,
        "dates": dates,
        "lines": list(lines_of(found))[bool(found.answers) :],  # the share is among the facts
        "facts": _facts(found),
        "tables": list(_tables(found)),
        "metrics": _metrics(found),
        "explained": [
            {
                "title": explained_title(each),
                "base": _base_text(each),
                "plot": contribution_plot(each["features"]),
                "rows": [explained_row(feature) for feature in each["features"]],
            }
            for each in found.explained
        ],
        "served": [each for served in found.served for each in served.get("examples", ())],
    }


def _facts(found: NameDiff) -> list[tuple[str, str]]:
    rows = [each.rows for each in (found.answers or found.tables)]
    facts = [("answers changed", words.percent(found.changed_share))] if found.answers else []
    if rows:
        facts += [
            ("rows", f"{rows[-1].rows_after:,}"),
            ("added, gone", f"{rows[-1].added:,}, {rows[-1].gone:,}"),
        ]
        moved = max((column.psi or 0.0 for each in rows for column in each.columns), default=0.0)
        facts.append(("largest PSI", f"{moved:.3f}"))
    if found.models is not None and found.models.differ:
        sides = (found.models.before, found.models.after)
        versions = ["none" if each is None else str(each["version"]) for each in sides]
        facts.append(("model", " → ".join(versions)))
    return facts


def _base_text(explained: dict[str, Any]) -> str:
    bases = [figure(explained[f"base_{side}"]) for side in ("before", "after")]
    return "" if None in bases else f"Against the rows of each side, whose mean answer is {bases[0]} and {bases[1]}."


def _metrics(found: NameDiff) -> list[tuple[str, str | None, str | None, bool]]:
    models = found.models
    if models is None:
        return []
    return [
        (name, figure(models.metrics[name][0]), figure(models.metrics[name][1]), is_worse(name, models))
        for name in ordered_metrics(models)
    ]


def _tables(found: NameDiff) -> Iterator[dict[str, Any]]:
    """The tables; a column that a view's table has is not drawn again for the table that is joined from it."""
    drawn: set[str] = set()
    for table in found.tables:
        columns = changed_columns(table)
        yield _table(table, columns, [each for each in columns if each.name not in drawn])
        drawn |= {each.name for each in columns}


def _table(table: TableDiff, columns: Sequence[ColumnDiff], to_draw: Sequence[ColumnDiff]) -> dict[str, Any]:
    return {
        "name": table.about.table,
        "rows": rows_text(table),
        "reasons": table.reasons,
        "sampled": table.rows.sampled,
        "is_sample": table.rows.sampled < max(table.rows.rows_before, table.rows.rows_after),
        "columns": [(column_row(each), (each.psi or 0.0) >= SHIFTED) for each in columns],
        "plots": [_plot(each) for each in to_draw[:_MOST_PLOTS]],
        "movers": movers_of(table) if table.about.answers else [],
    }


def _plot(column: ColumnDiff) -> dict[str, str]:
    about = {"vector": "Euclidean length", "list": "number of items"}.get(column.kind, "")
    unknown = [0 if each is None else each.unknown for each in (column.before, column.after)]
    parts = [about, f"PSI {column.psi:.3f}" if column.psi is not None else ""]
    parts.append(f"unknown {unknown[0]:,} → {unknown[1]:,}" if any(unknown) else "")
    return {"name": column.name, "about": " · ".join(filter(None, parts)), "svg": distribution_plot(column)}
