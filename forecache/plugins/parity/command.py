"""`forecache parity`: the logged answers of a real-time model, computed again and compared to the bit."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import click

from forecache.base.errors import CheckError
from forecache.cli.base import DateParam, command, settings
from forecache.cli.orchestrator import show_in_dagster
from forecache.cli.output import show, show_table
from forecache.cli.progress import StageProgress
from forecache.cli.resolve_names import require_log


@command(
    "parity",
    examples="""
    forecache parity search
    forecache parity search --date 2026-03-01 --sample 0.1
    forecache parity search --json
    """,
)
@click.argument("name", metavar="NAME")
@click.option("--date", "day", type=DateParam(), help="A date in UTC; default: the last whole day with answers.")
@click.option(
    "--sample", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
    help="Share of the answers, by a hash of their request ids.",
)  # fmt: skip
@click.option("--processes", type=click.IntRange(min=1), help="Worker processes; default: one for each core.")
def parity(name: str, day: date | None, sample: float, processes: int | None) -> None:
    """Compute the logged answers of the real-time model NAME again, offline, and compare every bit.

    Each request is read, looked up, transformed and scored again by the release that answered it, at the versions of
    the stores that it read. Exits with 6 where anything differs. What can no longer be computed again is counted by its
    reason. The figures are kept in the table `parity_NAME`.
    """
    from forecache.plugins.parity.replay import check_parity as compare

    current = settings()
    require_log(current, name)
    with StageProgress() as progress:
        result = compare(current, name, day, sample=sample, processes=processes, progress=progress.update)
    details = result.details
    show_in_dagster(current, f"parity_{name}", {"verdict": details["sentence"]}, result=result)
    show(details, lambda: show_parity(details))
    if not details["passed"]:
        raise CheckError(details["sentence"], remedy=f'All figures: `forecache query "select * from {result.table}"`.')


_MOST_FEATURES = 20  # of those without a difference; `--json` and the table in the lake have all


def show_parity(details: Mapping[str, Any]) -> None:
    """Print the figures of a replay: of the features, all that differ, and some of those that do not."""
    columns = ("mismatch", "missing", "extra", "mean_abs", "max_abs", "smape", "p99_abs")
    features = sorted(details["features"].items(), key=lambda each: not each[1]["mismatch"])
    shown = max(_MOST_FEATURES, sum(bool(each["mismatch"]) for _, each in features))
    rows = [
        (name, each["compared"], *(each[column] for column in columns))
        for name, each in [*features[:shown], ("(score)", details["scores"])]
    ]
    show_table(("feature", "values", *columns), rows, title=f"Answers of {details['day']}", right=("values", *columns))
    if len(features) > shown:
        click.echo(f"and {len(features) - shown:,} features more without a difference (--json)\n")
    stores = [
        (f"{each['name']} version {each['version']}", f"{each['table']} at {each['delta_version']}", each["state"])
        for each in details["stores"]
    ]
    show_table(("store", "lake", "content"), stores)
    first = [
        (each["request_id"], each["arrived_at"], f"{each['kind']} {each['name']}".strip(), each["place"],
         each["logged"], each["offline"])
        for each in details["first"]
    ]  # fmt: skip
    if first:
        show_table(("request", "arrived (UTC)", "differs in", "place", "logged", "offline"), first, right=("place",))
    if details["passed"]:
        click.echo(details["sentence"])
