"""The named steps of a rollback, in order, so that tests can kill it at each."""

from collections.abc import Callable

STEPS = (
    "planned",
    "begun",
    "champion moved",
    "model marked",
    "quarantined",
    "pointer moved",
    "targets synced",
    "recorded",
)

on_step: Callable[[str], None] | None = None
"""Called with each step's name just after the step is done; only tests set it."""


def step(name: str) -> None:
    """Report that a step is done."""
    assert name in STEPS, name
    if on_step is not None:
        on_step(name)
