"""Dagster's processes one by one, for several machines or a cluster, and the tables of its and MLflow's databases."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.cli.base import LazyGroup, command, require_free_port, settings
from forecache.cli.orchestrator import import_orchestrator

_HERE = "forecache.cli.commands.dagster"
_CODE = click.option(
    "--code",
    metavar="HOST:PORT",
    help="Address of the code location, `forecache dagster code`; default: it runs inside this process.",
)
_HOST = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")


@click.group(
    cls=LazyGroup,
    lazy={
        "webserver": (f"{_HERE}:webserver", "Dagster's UI."),
        "daemon": (f"{_HERE}:daemon", "Schedules, sensors, the queue of runs, retries; one for an installation."),
        "code": (f"{_HERE}:code", "The code location: the project's assets, jobs and sensors."),
    },
)
def dagster() -> None:
    """Dagster's processes one by one; `forecache dev` starts all of them on one machine."""


@command("webserver", examples="forecache dagster webserver --host 0.0.0.0 --code code:4000")
@_HOST
@click.option("--port", type=click.IntRange(1, 65535), help="Port; default: FORECACHE_DAGSTER_PORT.")
@_CODE
def webserver(host: str, port: int | None, code: str | None) -> None:
    """Start Dagster's UI: asset graph, runs, checks, schedules, backfills."""
    current = settings()
    arguments = ["-h", host, "-p", str(port or current.dagster_port), "-w", _workspace(current, code)]
    require_free_port(host, port or current.dagster_port)
    _become(current, "dagster-webserver", arguments)


@command("daemon", examples="forecache dagster daemon --code code:4000")
@_CODE
def daemon(code: str | None) -> None:
    """Start Dagster's daemon: schedules, sensors, the queue of runs, retries, monitoring of runs."""
    current = settings()
    _become(current, "dagster-daemon", ["run", "-w", _workspace(current, code)])


@command("code", examples="forecache dagster code --host 0.0.0.0 --port 4000")
@_HOST
@click.option("--port", type=click.IntRange(1, 65535), default=4000, show_default=True, help="Port to listen on.")
def code(host: str, port: int) -> None:
    """Start the code location: it loads the project, and evaluates sensors and schedules for the daemon."""
    require_free_port(host, port)
    current = settings()
    module = import_orchestrator("resources.instance").definitions_module(current)
    _become(current, "dagster", ["api", "grpc", "-m", module, "-h", host, "-p", str(port)])


@command("migrate", examples="forecache migrate")
def migrate() -> None:
    """Create or upgrade the tables of Dagster and MLflow in their PostgreSQL databases, before anything else starts."""
    from forecache.models.tracking.client import upgrade_database

    current = settings()
    instance = import_orchestrator("resources.instance")
    if current.dagster_uri:
        instance.upgrade_tables(instance.ensure_instance(current))
        click.echo("Dagster's tables are those of this release.")
    if current.mlflow_tracking_uri.startswith("postgresql"):
        upgrade_database(current.mlflow_tracking_uri)
        click.echo("MLflow's tables are those of this release.")


def _workspace(current: Settings, address: str | None) -> str:
    """Path of a workspace that names the code location at an address, or the project's module without one."""
    instance = import_orchestrator("resources.instance")
    home: Path = instance.ensure_instance(current)
    instance.prepare_tables(home)
    return str(instance.write_workspace(home, address) if address else home / "workspace.yaml")


def _become(current: Settings, program: str, arguments: list[str]) -> NoReturn:
    """Replace this process by a program of Dagster's, which then gets the signals itself."""
    path = Path(sys.executable).with_name(program)
    if not path.is_file():
        raise UnavailableError(f"There is no {path}.", remedy="Install the extra `dagster` or `cluster`.")
    home = import_orchestrator("resources.instance").ensure_instance(current)
    environment = {**os.environ, **current.process_variables(), "DAGSTER_HOME": str(home)}
    os.execve(path, [str(path), *arguments], environment)
