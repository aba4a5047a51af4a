"""Progress of long stages: a live line on a terminal, plain lines with the elapsed seconds elsewhere."""

import sys
import time
from typing import Any

import click

from forecache.base.results import StageResult
from forecache.cli.output import describe_outcome, format_cell, format_dates, wants_json

PLAIN_INTERVAL_S = 5.0
"""Least time between two plain lines of the same stage."""


class StageProgress:
    """Shows the running stage and each finished one; silent with `--json`.

    Use as a context manager; `update` is a `Progress` callback, `print_stage` takes each finished `StageResult`.
    Everything goes to standard error, so that standard output has only the result.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._quiet = wants_json()
        self._live: Any = None
        self._task: Any = None
        self._last_message = ""
        self._last_line_at = -PLAIN_INTERVAL_S

    def __enter__(self) -> "StageProgress":
        if not self._quiet and sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            from forecache.cli.output import make_console

            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                console=make_console(stderr=True),
                transient=True,
            )
            self._live.start()
            self._task = self._live.add_task("starting", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, message: str, share: float | None = None) -> None:
        """A `Progress`: shows what runs now."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(
                self._task, description=message, total=None if share is None else 1.0, completed=share or 0.0
            )
            return
        now = time.perf_counter()
        is_new = message.split(":")[0] != self._last_message.split(":")[0]
        if message == self._last_message or (not is_new and now - self._last_line_at < PLAIN_INTERVAL_S):
            return
        self._last_message, self._last_line_at = message, now
        percent = "" if share is None else f" ({share:.0%})"
        click.echo(f"[{now - self._started:6.1f} s]   {message}{percent}", err=True)

    def print_stage(self, result: StageResult) -> None:
        """Print one line for a finished stage."""
        if self._quiet:
            return
        nights = f" {format_dates(result.nights)}" if result.nights else ""
        text = (
            f"{result.stage} {result.subject}{nights}: {format_cell(result.rows)} rows, "
            f"{result.seconds:.1f} s, {describe_outcome(result)}"
        )
        self.print_line(f"{'=' if result.skipped else '+'} {text}")

    def print_line(self, text: str) -> None:
        """Print a line that stays on the screen."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.console.print(text, markup=False)
        else:
            click.echo(f"[{time.perf_counter() - self._started:6.1f} s] {text}", err=True)
