"""The lake: `query` and `tables`."""

import sys
from typing import Any

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show_rows, show_table, size, wants_json

TABLE_LIMIT = 50
"""Rows that a table on the terminal shows without `--limit`."""


@command(
    "query",
    examples="""
    forecache query "select count(*) from predictions_churn"
    forecache query "select risk_segment, count(*) n from predictions_churn group by all" --format csv
    forecache query "select * from quarantine_purchases" --limit 5
    """,
)
@click.argument("sql")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option(
    "--limit", type=click.IntRange(min=0), help=f"Most rows shown; 0: all. Default: {TABLE_LIMIT} in a table, else all."
)
def query(sql: str, form: str, limit: int | None) -> None:
    """Run SQL (DuckDB's dialect) over the lake's tables by name. It only reads."""
    from forecache.lake.query import query as run_query

    found = run_query(settings(), sql)
    form = "json" if wants_json() else form
    most = limit if limit is not None else (TABLE_LIMIT if form == "table" else 0)
    shown = found.slice(0, most) if most else found
    if form == "csv":
        _write_csv(shown)
    elif form == "json":
        print_json(shown.to_pylist())
    else:
        _show(shown, total=found.num_rows)


def _write_csv(table: Any) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(table.column_names)
    for batch in table.to_batches():
        columns = [column.to_pylist() for column in batch.columns]
        writer.writerows(zip(*columns, strict=True))


def _show(table: Any, *, total: int) -> None:
    import pyarrow as pa

    numbers = [
        field.name for field in table.schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    ]
    columns = [column.to_pylist() for column in table.columns]
    caption = f"{total:,} row{'' if total == 1 else 's'}"
    if table.num_rows < total:
        caption += f", the first {table.num_rows:,} shown; --limit 0 shows all"
    show_table(table.column_names, zip(*columns, strict=True), right=numbers, caption=caption)


@command("tables", examples="forecache tables\nforecache tables --json")
def tables() -> None:
    """List the lake's tables with their Delta version, rows and size."""
    from forecache.kit.delta.tables import list_tables

    current = settings()
    found = list_tables(current)
    rows = [
        (info.name, info.version, info.rows if info.rows >= 0 else None, info.files, size(info.size_bytes))
        for info in found
    ]
    figures = ("Delta version", "rows", "files", "size")
    show_rows(found, ("table", *figures), rows, right=figures, caption=f"in {current.lake_uri}")
