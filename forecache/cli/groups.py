"""Groups of commands to which plug-ins add: `forecache store`, `forecache release` and `forecache simulate`."""

import click

from forecache.base.plugins import find_commands
from forecache.cli.base import CONTEXT_SETTINGS, LazyGroup

_COMMANDS = "forecache.cli.commands"
_STORE = {
    "versions": (f"{_COMMANDS}.store:versions", "Published versions of a pipeline."),
    **find_commands("store"),
    "pin": (f"{_COMMANDS}.store:pin", "Serve one version, even if newer ones are published."),
    "unpin": (f"{_COMMANDS}.store:unpin", "Serve the newest version again."),
    "unblock": (f"{_COMMANDS}.store:unblock", "Allow a version that a rollback blocked."),
    "push": (f"{_COMMANDS}.distribution:push_command", "Copy the served versions to Redis and a remote."),
    "pull": (f"{_COMMANDS}.distribution:pull_command", "Copy the served versions from a remote to this replica."),
}
_RELEASE = {
    "build": (f"{_COMMANDS}.release:build", "Release a model: champion, transform, feature contracts."),
    "list": (f"{_COMMANDS}.release:list_releases", "Releases of a model, and the steps of its rollout."),
    **find_commands("release"),
}
_SIMULATE = find_commands("simulate")
GROUPS = {"store": _STORE, "release": _RELEASE, "simulate": _SIMULATE}
"""The commands in each group, for the suggestion if one is called without its group."""


@click.group("store", cls=LazyGroup, lazy=_STORE, context_settings=CONTEXT_SETTINGS)
def store() -> None:
    """Published versions of pipelines, in the precompute store and its remote.

    `forecache publish` makes a version, `forecache rollback` serves an earlier one.
    """


@click.group("release", cls=LazyGroup, lazy=_RELEASE, context_settings=CONTEXT_SETTINGS)
def release() -> None:
    """Releases of real-time models, and their rollouts.

    `forecache rollback` makes an earlier release answer again.
    """


@click.group("simulate", cls=LazyGroup, lazy=_SIMULATE, context_settings=CONTEXT_SETTINGS)
def simulate() -> None:
    """Simulate what would happen, before it does."""
