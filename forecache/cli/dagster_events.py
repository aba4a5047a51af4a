"""Record changes by commands in Dagster's UI, with the name of the person who ran the command."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from forecache.base.errors import NotEverywhereError
from forecache.base.settings import Settings
from forecache.cli.runner import has_orchestrator_run, import_orchestrator


def actor() -> str:
    """The person who runs this command, for the promotion ledger."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return "cli"


@contextmanager
def show_despite_replica_failure(settings: Settings, pipeline: str, reason: str) -> Iterator[None]:
    """Record the event also if a change is done here but Redis or the remote could not be updated."""
    try:
        yield
    except NotEverywhereError as error:
        from forecache.serve.store import open_store

        served = open_store(settings, pipeline).pointer().current
        show_in_dagster(
            settings, f"published_{pipeline}", {"version": served, "reason": reason, "not_everywhere": error.message}
        )
        raise


def show_in_dagster(settings: Settings, asset: str, metadata: dict[str, Any] | None = None, **made: Any) -> None:
    """Record an event of an asset: who ran this command, and its result.

    The change itself is done, so a failure here is only a warning. Without a Dagster instance in this installation,
    nothing is recorded.

    Args:
        metadata: The result; None as a value is shown as "none".
        made: See `assets.command_events.record_asset_event`.
    """
    if not has_orchestrator_run(settings):
        return
    shown = {"by": actor(), "command": click.get_current_context().command_path}
    shown |= {name: "none" if value in (None, "") else value for name, value in (metadata or {}).items()}
    try:
        import_orchestrator("assets.command_events").record_asset_event(settings, asset, shown, **made)
    except Exception as error:  # noqa: BLE001  (Dagster's state is not worth failing a rollback for)
        click.echo(f"Warning: this is done, but Dagster's UI does not show it: {error}", err=True)
