"""`forecache dev`: the orchestrator's UI on the state that the other commands write."""

import os
import sys
from pathlib import Path

import click

from forecache.base.errors import ConflictError, UnavailableError
from forecache.cli.base import command, settings
from forecache.cli.checks.machine import is_port_free
from forecache.cli.runner import import_orchestrator
from forecache.kit.process.child import run_supervised


@command("dev", examples="forecache dev\nforecache dev --port 3001")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port; default: FORECACHE_DAGSTER_PORT.")
@click.pass_context
def dev(context: click.Context, host: str, port: int | None) -> None:
    """Open Dagster's UI: asset graph, runs, checks, schedules, backfills. Ctrl-C or SIGTERM stops all its processes."""
    current = settings()
    port = port or current.dagster_port
    if not is_port_free(host, port):
        raise ConflictError(
            f"Port {port} on {host} is in use.", remedy="Stop the process that listens there, or give --port."
        )
    program = Path(sys.executable).with_name("dagster")
    if not program.is_file():
        raise UnavailableError(f"There is no {program}.", remedy="Run `make setup`.")
    instance = import_orchestrator("resources.instance")
    home = instance.ensure_instance(current)
    instance.prepare_tables(home)
    # Dagster would first recommend another command, which this environment does not have.
    quiet = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:Function `dev_command`:FutureWarning"]))
    own = {"DAGSTER_HOME": str(home), "FORECACHE_HOME": str(current.home_path), "PYTHONWARNINGS": quiet}
    environment = {**os.environ, **own}
    click.echo(f"Dagster's UI is at http://{host}:{port} in some seconds; Ctrl-C stops it.", err=True)
    command_line = [str(program), "dev", "-w", str(home / "workspace.yaml"), "-h", host, "-p", str(port)]
    context.exit(run_supervised(command_line, environment))
