"""The named steps of a publish, in order, so that tests can kill it at each."""

from collections.abc import Callable

MERGE_STEPS = ("merged", "merged base moved", "merged base verified")
"""Only where base and deltas are merged into a new base."""

STEPS = (
    "locked",
    "cleaned",
    "encoded",
    "built",
    "segments moved",
    "verified",
    *MERGE_STEPS,
    "manifest written",
    "pointer moved",
    "retired",
)

on_step: Callable[[str], None] | None = None
"""Called with each step's name just after the step is done; only tests set it."""


def step(name: str) -> None:
    assert name in STEPS, name
    if on_step is not None:
        on_step(name)
