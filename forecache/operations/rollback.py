"""Rollback: the alias `champion` and the published predictions go back together, or not at all.

A rollback writes a row to the promotion ledger ("begun") before it moves anything, and a second row ("passed") at the
end. A process that dies in between leaves the first row without the second. The next operation that rolls back, decides
about a model, scores or publishes then finishes the rollback first (`recover_interrupted`), or undoes it if its target
is gone or damaged.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from forecache.errors import DamagedError, NotFoundError
from forecache.operations.plan import plan_move, previous_champion, published_by, versions_to_quarantine
from forecache.operations.targets import reporting_replica_failure
from forecache.pipeline import Pipeline
from forecache.registry.moves import ended, finish_move, mark_rolled_back, undo_move
from forecache.registry.promotions import Promotion, promotions, record_promotion, unfinished
from forecache.registry.versions.models import model_version, registry_lock
from forecache.results import Progress, no_progress
from forecache.settings import Settings
from forecache.steps import rollback_step
from forecache.store.locks import publisher_lock
from forecache.store.manifest import Manifest, timestamp
from forecache.store.replicas.sync import sync_targets
from forecache.store.store import Store, open_store


@dataclass(frozen=True)
class RolledBack:
    """The result of a rollback.

    Attributes:
        served: The version that is served now, None if nothing is published.
        entry: The closing ledger row, None if only the store moved.
        targets: The changes in Redis and in the remote, by target.
        resumed: Whether an earlier, interrupted command began it; `entry.verdict` says whether it was finished.
    """

    served: Manifest | None
    entry: Promotion | None = None
    targets: dict[str, Any] = field(default_factory=dict)
    resumed: bool = False


def roll_back(
    settings: Settings,
    pipeline: Pipeline,
    *,
    version: int | None = None,
    keep_model: bool = False,
    actor: str,
    reason: str = "",
    progress: Progress = no_progress,
) -> RolledBack:
    """Serve an earlier version again, and make the model of its predictions the champion.

    The present version is quarantined and, if another model made it, that model is marked as rolled back: neither comes
    back by itself. An interrupted rollback is finished instead, and nothing else is done.

    Args:
        version: Store version to serve; None: the newest retained one before the current that is not quarantined.
        keep_model: Leave the champion as it is.
        actor, reason: Who decided and why, for the promotion ledger.

    Raises:
        NotFoundError: There is no such version to go back to, or its model is not registered any more.
        CheckError: Its model was never champion, or that model's artifact was changed. Nothing has moved.
        ConflictError: Another process is changing the store.
        NotEverywhereError: The rollback is done here, but Redis or the remote could not be updated.
    """
    with _locked_store(settings, pipeline) as store:
        interrupted = unfinished(promotions(settings, pipeline.name))
        if interrupted is not None:
            return _resume(settings, pipeline, store, interrupted, progress)
        target = store.rollback_target(version)
        current = store.pointer().current
        assert current is not None
        if keep_model or _model_of(store, current) in (None, target.model):
            return _move_store_only(settings, pipeline, store, current, target, progress)
        model = target.provenance.model_version
        entry = plan_move(settings, pipeline, store, model=model, published=target, actor=actor, reason=reason)
        return _begin(settings, pipeline, store, entry, progress)


def roll_model_back(
    settings: Settings,
    pipeline: Pipeline,
    *,
    to: int | None = None,
    keep_published: bool = False,
    actor: str,
    reason: str = "",
    progress: Progress = no_progress,
) -> RolledBack:
    """Make an earlier champion the champion again, and serve the newest version with its predictions.

    Every later store version with predictions of the present champion is quarantined, and that model is marked as
    rolled back. An interrupted rollback is finished instead, and nothing else is done.

    Args:
        to: The model version; None: the latest earlier champion that was not rolled back.
        keep_published: Leave the served version as it is until the next publish.

    Raises:
        NotFoundError: There is no champion, none before it, or the store retains no version with its predictions.
        CheckError: The version was never champion, or its artifact was changed. Nothing has moved.
        ConflictError: Another process is changing the store, or there is nothing to move.
        NotEverywhereError: The rollback is done here, but Redis or the remote could not be updated.
    """
    with _locked_store(settings, pipeline) as store:
        interrupted = unfinished(promotions(settings, pipeline.name))
        if interrupted is not None:
            return _resume(settings, pipeline, store, interrupted, progress)
        model = previous_champion(settings, pipeline) if to is None else to
        anything = store.pointer().current is not None
        published = published_by(store, model) if anything and not keep_published else None
        if published is not None:
            store.verified(published.version)
        entry = plan_move(settings, pipeline, store, model=model, published=published, actor=actor, reason=reason)
        return _begin(settings, pipeline, store, entry, progress)


def recover_interrupted(
    settings: Settings, pipeline: Pipeline, *, progress: Progress = no_progress
) -> RolledBack | None:
    """Finish or undo an interrupted rollback or promotion by a person; returns None if there is none.

    Raises:
        ConflictError: Another process is changing the store.
    """
    if unfinished(promotions(settings, pipeline.name)) is None:
        return None
    with _locked_store(settings, pipeline) as store:
        interrupted = unfinished(promotions(settings, pipeline.name))
        return None if interrupted is None else _resume(settings, pipeline, store, interrupted, progress)


@contextmanager
def _locked_store(settings: Settings, pipeline: Pipeline) -> Iterator[Store]:
    """The pipeline's store, locked so that no other process on this machine moves its models or versions."""
    store = open_store(settings, pipeline.name)
    with registry_lock(settings), publisher_lock(store.layout, action="rollback"):
        yield store


def _model_of(store: Store, version: int) -> dict[str, Any] | None:
    """The model that made a version; None if the manifest is damaged or gone, which says nothing against the model."""
    try:
        return store.manifest(version).model
    except (DamagedError, NotFoundError):
        return None


def _move_store_only(
    settings: Settings, pipeline: Pipeline, store: Store, current: int, target: Manifest, progress: Progress
) -> RolledBack:
    """Quarantine the current version and move the pointer to another one; the champion stays."""
    store.quarantine(current, f"rolled back to version {target.version} at {timestamp(datetime.now(timezone.utc))}")
    store.serve_again(target.version)
    with reporting_replica_failure(pipeline.name, "Rolled back."):
        return RolledBack(target, targets=sync_targets(settings, pipeline, store, progress))


def _begin(settings: Settings, pipeline: Pipeline, store: Store, entry: Promotion, progress: Progress) -> RolledBack:
    rollback_step("planned")
    record_promotion(settings, entry)
    rollback_step("begun")
    return _complete(settings, pipeline, store, entry, progress)


def _complete(settings: Settings, pipeline: Pipeline, store: Store, entry: Promotion, progress: Progress) -> RolledBack:
    """Carry out the operation of an opening ledger row and write the closing row; every step is idempotent."""
    finish_move(settings, pipeline, entry)
    rollback_step("champion moved")
    if entry.action == "rollback" and entry.from_version is not None and entry.from_version != entry.to_version:
        mark_rolled_back(settings, pipeline, entry.from_version)
    rollback_step("model marked")
    if entry.to_published is not None:
        for version in versions_to_quarantine(store, entry):
            store.quarantine(version, _quarantine_reason(entry))
        rollback_step("quarantined")
        # A version that was published after this rollback began stays current: nobody decided about it.
        pointer = store.pointer()
        if pointer.current == entry.from_published:
            # A pin that was set after the rollback began is a later decision, and stays.
            pinned = None if pointer.pinned == entry.from_pinned else pointer.pinned
            store.serve_again(entry.to_published, pinned=pinned)
        rollback_step("pointer moved")
    targets: dict[str, Any] = {}
    try:
        if entry.to_published is not None:
            with reporting_replica_failure(pipeline.name, "Rolled back."):
                targets = sync_targets(settings, pipeline, store, progress)
            rollback_step("targets synced")
    finally:
        closing = ended(entry)
        record_promotion(settings, closing)
    rollback_step("recorded")
    return RolledBack(store.current(), closing, targets)


def _resume(settings: Settings, pipeline: Pipeline, store: Store, entry: Promotion, progress: Progress) -> RolledBack:
    try:
        assert entry.to_version is not None
        model_version(settings, pipeline, entry.to_version)
        if entry.to_published is not None:
            store.verified(entry.to_published)
    except (NotFoundError, DamagedError) as gone:
        return _undo(settings, pipeline, store, entry, f"undone after an interruption: {gone.message}", progress)
    done = replace(_complete(settings, pipeline, store, entry, progress), resumed=True)
    pinned = store.pointer().pinned
    stays = "" if pinned is None else f"; version {pinned} stays pinned"
    progress(f"finished the interrupted {entry.action} of {pipeline.name}{stays}", None)
    return done


def _undo(
    settings: Settings, pipeline: Pipeline, store: Store, entry: Promotion, reason: str, progress: Progress
) -> RolledBack:
    for version, why in store.quarantined().items():
        if why == _quarantine_reason(entry):
            store.lift_quarantine(version)
    pointer = store.pointer()
    if entry.from_published is not None and pointer.current == entry.to_published:
        store.serve_again(entry.from_published, pinned=pointer.pinned)
    undo_move(settings, pipeline, entry)
    closing = replace(
        entry,
        verdict="undone",
        reason=reason,
        to_version=entry.from_version,
        to_published=entry.from_published,
        predictions_version=None,
        recorded_at=datetime.now(timezone.utc),
    )
    record_promotion(settings, closing)
    with reporting_replica_failure(pipeline.name, f"The {entry.action} is undone."):
        targets = {} if store.pointer().serving is None else sync_targets(settings, pipeline, store, progress)
    return RolledBack(store.current(), closing, targets, resumed=True)


def _quarantine_reason(entry: Promotion) -> str:
    return f"rolled back to version {entry.to_published} at {timestamp(entry.recorded_at)}"
