"""Rollbacks: `rollback` to a published version, `models rollback` to a model version."""

from typing import TYPE_CHECKING

import click

from forecache.base.errors import CheckError
from forecache.cli.base import command, load_trained_model, settings
from forecache.cli.commands.release import release_champion, roll_release_back
from forecache.cli.commands.store import open_pipeline_store, print_served
from forecache.cli.orchestrator import actor, show_despite_replica_failure, show_in_dagster
from forecache.cli.progress import StageProgress
from forecache.cli.resolve_names import is_released

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.operations.rollback import RollbackResult
    from forecache.serve.store import Store

_PIPELINE = click.argument("pipeline", metavar="PIPELINE")
_REASON = click.option("--reason", default="", help="Why, for the promotion ledger.")


@command("rollback", examples="forecache rollback churn\nforecache rollback churn --to 16 --reason 'scores too low'")
@_PIPELINE
@click.option("--to", "version", type=int, help="The version to go back to; default: the newest undamaged one before.")
@click.option("--keep-model", is_flag=True, help="Leave the champion as it is, whichever model made the version.")
@_REASON
def rollback(pipeline: str, version: int | None, keep_model: bool, reason: str) -> None:
    """Serve an earlier version of PIPELINE again; in the same step, the model that made it becomes the champion.

    The present version is blocked and, if another model made it, so is that model: neither comes back by itself.
    Of a real-time model, an earlier release answers again, and its champion stays. `forecache models rollback` goes
    back to the previous champion, even if that was many versions ago.
    """
    from forecache.declare import Pipeline
    from forecache.declare.loading import find_served
    from forecache.operations.distribute_release import report_replica_failure
    from forecache.operations.rollback import roll_back
    from forecache.serve.store.push_pull import sync_served

    current = settings()
    if is_released(current, pipeline):
        roll_release_back(current, pipeline, version, reason)
        return
    store = open_pipeline_store(pipeline, or_model=True)
    declared = find_served(current, pipeline)
    with show_despite_replica_failure(current, pipeline, reason), StageProgress() as progress:
        if isinstance(declared, Pipeline) and declared.is_trained:
            done = roll_back(
                current,
                declared,
                version=version,
                keep_model=keep_model,
                actor=actor(),
                reason=reason,
                progress=progress.update,
            )
        else:  # a recommender, an undeclared pipeline, or a model that is not trained here: only the store changes
            served = store.rollback(version)
            with report_replica_failure(pipeline, "Rolled back."):
                targets = sync_served(current, declared, store, progress.update)
    if not isinstance(declared, Pipeline) or not declared.is_trained:
        show_in_dagster(current, f"published_{pipeline}", {"version": served.version, "reason": reason})
        print_served(store, served, "Rolled back.", targets)
    else:
        _print_rollback(current, store, done, reason)


@command(
    "rollback", examples="forecache models rollback churn\nforecache models rollback churn --to 4 --reason 'drift'"
)
@_PIPELINE
@click.option(
    "--to", type=int, metavar="VERSION", help="The model version to go back to; default: the previous champion."
)
@click.option("--model-only", is_flag=True, help="Leave the served version as it is until the next publish.")
@_REASON
def model_rollback(pipeline: str, to: int | None, model_only: bool, reason: str) -> None:
    """Make an earlier champion of PIPELINE the champion again and, in the same step, serve its newest version.

    The present champion and every later version that it made are blocked: none comes back by itself. Of a real-time
    model, the champion is released, too.
    """
    from forecache.operations.rollback import roll_back_model
    from forecache.serve.store import open_store

    current, declared = load_trained_model(pipeline)
    with show_despite_replica_failure(current, pipeline, reason), StageProgress() as progress:
        done = roll_back_model(
            current,
            declared,
            to=to,
            keep_published=model_only,
            actor=actor(),
            reason=reason,
            progress=progress.update,
        )
    _print_rollback(current, open_store(current, pipeline), done, reason)
    release_champion(current, pipeline, at_once=True)


def _print_rollback(current: "Settings", store: "Store", done: "RollbackResult", reason: str) -> None:
    entry = done.entry
    if entry is not None and entry.verdict == "undone":
        raise CheckError(
            f"An interrupted {entry.action} of {store.pipeline} cannot be finished and is {entry.reason}",
            remedy="Run the command again to roll back from the version that is served now.",
        )
    served = store.pointer().current
    show_in_dagster(current, f"published_{store.pipeline}", {"version": served, "reason": reason})
    if entry is not None and entry.to_version != entry.from_version:
        moved = {"champion": entry.to_version, "champion_before": entry.from_version, "reason": entry.reason}
        show_in_dagster(current, f"model_{store.pipeline}", moved)
    what = "Rolled back."
    if done.resumed and entry is not None:
        what = f"Finished the interrupted {entry.action}."
    if entry is not None and entry.to_version != entry.from_version:
        what += f" Model {entry.to_version} is the champion again, {entry.from_version} is not."
    elif entry is None:
        what += " The champion does not change."
    pointer = store.pointer()
    if pointer.pinned is not None:
        what += f" Version {pointer.pinned} was pinned meanwhile and stays pinned: "
        what += f"`forecache store unpin {store.pipeline}` serves version {pointer.current}."
    champions = {"from": entry.from_version, "to": entry.to_version} if entry else None
    print_served(store, done.served, what, done.targets, {"champion": champions, "resumed": done.resumed})
