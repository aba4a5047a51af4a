"""`forecache simulate`: the simulations of the plug-ins."""

import click

from forecache.base.plugins import find_commands
from forecache.cli.base import CONTEXT_SETTINGS, LazyGroup


@click.group("simulate", cls=LazyGroup, lazy=find_commands("simulations"), context_settings=CONTEXT_SETTINGS)
def simulate() -> None:
    """Simulate what would happen, before it does."""
