"""The bridge to Dagster, whose modules are imported by name: the framework must not import them."""

import getpass
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

import click

from forecache.base.errors import NotEverywhereError
from forecache.base.results import Progress, StageResult
from forecache.base.settings import Settings

Job = Literal["nightly", "training", "ingest", "full"]


def import_orchestrator(module: str) -> ModuleType:
    """Import a module of the orchestrator's packages, such as `jobs.runner`."""
    return importlib.import_module(module)


def has_orchestrator_run(settings: Settings) -> bool:
    """True if the orchestrator is installed, and has run here before or has a database that machines share."""
    return find_spec("dagster") is not None and (bool(settings.dagster_uri) or settings.dagster_home.is_dir())


def run_job(
    settings: Settings,
    *,
    pipelines: list[str],
    sources: Sequence[str] = (),
    nights: tuple[date, date] | None,
    job: Job,
    progress: Progress,
    on_stage: Callable[[StageResult], None],
    rebuild: bool = False,
) -> list[StageResult]:
    """Run a job, and return results in the order stages ended.

    If there is nothing to do, nothing is started. A run without Spark is carried out in this process, any other by the
    orchestrator, whose UI shows it.
    """
    from forecache.runs import RunRequest, look_for_work, reason_without_orchestrator, run_in_process

    request = RunRequest(pipelines, sources, nights, job, rebuild)
    results = look_for_work(settings, request)
    if results is not None:
        for result in results:
            on_stage(result)
        return results
    if reason := reason_without_orchestrator(settings, request):
        progress(f"running in this process: {reason}", None)
        return run_in_process(settings, request, progress=progress, on_stage=on_stage)
    runner = import_orchestrator("jobs.runner")
    return list(runner.run(settings, progress=progress, on_stage=on_stage, **vars(request)))


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
        made: See `assets.metadata.record_asset_event`.
    """
    if not has_orchestrator_run(settings):
        return
    shown = {"by": actor(), "command": click.get_current_context().command_path}
    shown |= {name: "none" if value in (None, "") else value for name, value in (metadata or {}).items()}
    try:
        import_orchestrator("assets.metadata").record_asset_event(settings, asset, shown, **made)
    except Exception as error:  # noqa: BLE001  (Dagster's state is not worth failing a rollback for)
        click.echo(f"Warning: this is done, but Dagster's UI does not show it: {error}", err=True)
