"""The named steps between a table's first new data file and the ledger's row, so that tests can kill a run at each."""

from collections.abc import Callable

STEPS = ("file written", "staged", "checked", "decided", "committed", "recorded")
MAINTENANCE_STEPS = ("file removed",)

on_step: Callable[[str], None] | None = None
"""Called with each step's name just after the step is done; only tests set it."""


def step(name: str) -> None:
    assert name in (*STEPS, *MAINTENANCE_STEPS), name
    if on_step is not None:
        on_step(name)
