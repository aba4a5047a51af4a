"""Simulations: `simulate rollout`, the requests that a rollout needs to find a harm, and `simulate autoscale`."""

import click

from forecache.cli.base import CONTEXT_SETTINGS, LazyGroup

_COMMANDS = "forecache.cli.commands"
SIMULATE = {
    "rollout": (f"{_COMMANDS}.simulate_rollout:rollout", "How many requests it takes until a harm is found."),
    "autoscale": (f"{_COMMANDS}.autoscale:autoscale", "Replicas by demand against a fixed number of them."),
}


@click.group("simulate", cls=LazyGroup, lazy=SIMULATE, context_settings=CONTEXT_SETTINGS)
def simulate() -> None:
    """Simulate what would happen, before it does."""
