"""Rollback: the alias `champion` and the published predictions go back together, or not at all.

What is going to move is a row of the promotion ledger ("begun") before anything does, and a second row ("passed") once
everything has. A process that dies in between leaves the first without the second: whatever next rolls back, decides
about a model, scores or publishes finishes it first (`settle`); where its target is gone or damaged, it is undone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from forecache.errors import DamagedError, NotFoundError
from forecache.operations.plan import plan_move, previous_champion, published_by, versions_left
from forecache.operations.steps import step
from forecache.operations.targets import stands_here
from forecache.pipeline import Pipeline
from forecache.registry.moves import ended, finish_move, mark_rolled_back, undo_move
from forecache.registry.promotions import Promotion, promotions, record_promotion, unfinished
from forecache.registry.versions.models import model_version, registry_lock
from forecache.results import Progress, no_progress
from forecache.settings import Settings
from forecache.store.locks import publisher_lock
from forecache.store.manifest import Manifest, timestamp
from forecache.store.replicas.sync import sync_targets
from forecache.store.store import Store, open_store


@dataclass(frozen=True)
class RolledBack:
    """What a rollback did.

    Attributes:
        served: The version that is served now, None where nothing is published.
        entry: The ledger's row, None where only the store moved.
        targets: What was done in Redis and in the remote, by target.
        resumed: It was begun by an earlier command that was cut short; `entry.verdict` says whether it was finished.
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
    """Serve an earlier version again, and make the model that made it the champion.

    The version left is quarantined, and so is its model where another made the one served: neither comes back by
    itself. A rollback that was cut short is finished instead, and nothing else is done.

    Args:
        version: Where to go, None: the newest retained version before the current one that is not quarantined.
        keep_model: Leave the champion as it is.
        actor, reason: Who and why, for the promotion ledger.

    Raises:
        NotFoundError: There is no such version to go back to, or its model is not registered any more.
        CheckError: Its model was never champion, or that model's artifact was changed. Nothing has moved.
        ConflictError: Another process is changing the store.
        NotEverywhereError: It is done here; Redis or the remote could not follow.
    """
    with _held(settings, pipeline) as store:
        cut_short = unfinished(promotions(settings, pipeline.name))
        if cut_short is not None:
            return _resume(settings, pipeline, store, cut_short, progress)
        target = store.rollback_target(version)
        left = store.pointer().current
        assert left is not None
        if keep_model or _model_of(store, left) in (None, target.model):
            return _store_alone(settings, pipeline, store, left, target, progress)
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
    """Make an earlier champion the champion again, and serve the newest version that it made.

    Every version that the model left had made since is quarantined, and so is the model. A rollback that was cut short
    is finished instead, and nothing else is done.

    Args:
        to: The model version, None: the champion before this one that nobody rolled back from.
        keep_published: Leave what is served as it is until the next publish.

    Raises:
        NotFoundError: There is no champion, none before it, or the store retains nothing that it made.
        CheckError: The version was never champion, or its artifact was changed. Nothing has moved.
        ConflictError: Another process is changing the store, or there is nothing to move.
        NotEverywhereError: It is done here; Redis or the remote could not follow.
    """
    with _held(settings, pipeline) as store:
        cut_short = unfinished(promotions(settings, pipeline.name))
        if cut_short is not None:
            return _resume(settings, pipeline, store, cut_short, progress)
        model = previous_champion(settings, pipeline) if to is None else to
        anything = store.pointer().current is not None
        published = published_by(store, model) if anything and not keep_published else None
        if published is not None:
            store.verified(published.version)
        entry = plan_move(settings, pipeline, store, model=model, published=published, actor=actor, reason=reason)
        return _begin(settings, pipeline, store, entry, progress)


def settle(settings: Settings, pipeline: Pipeline, *, progress: Progress = no_progress) -> RolledBack | None:
    """Finish or undo a rollback, or a person's promotion, that was cut short; None where there is none.

    Raises:
        ConflictError: Another process is changing the store.
    """
    if unfinished(promotions(settings, pipeline.name)) is None:
        return None
    with _held(settings, pipeline) as store:
        cut_short = unfinished(promotions(settings, pipeline.name))
        return None if cut_short is None else _resume(settings, pipeline, store, cut_short, progress)


@contextmanager
def _held(settings: Settings, pipeline: Pipeline) -> Iterator[Store]:
    """The pipeline's store, while nobody else can move its models or versions."""
    store = open_store(settings, pipeline.name)
    with registry_lock(settings), publisher_lock(store.layout, action="rollback"):
        yield store


def _model_of(store: Store, version: int) -> dict[str, Any] | None:
    """The model that made a version; None where its manifest is damaged or gone: nothing speaks against its model."""
    try:
        return store.manifest(version).model
    except (DamagedError, NotFoundError):
        return None


def _store_alone(
    settings: Settings, pipeline: Pipeline, store: Store, left: int, target: Manifest, progress: Progress
) -> RolledBack:
    """One model made both versions, or the model is to stay: one move of the pointer is all."""
    store.quarantine(left, f"rolled back to version {target.version} at {timestamp(datetime.now(timezone.utc))}")
    store.serve_again(target.version)
    with stands_here(pipeline.name, "Rolled back."):
        return RolledBack(target, targets=sync_targets(settings, pipeline, store, progress))


def _begin(settings: Settings, pipeline: Pipeline, store: Store, entry: Promotion, progress: Progress) -> RolledBack:
    step("planned")
    record_promotion(settings, entry)
    step("begun")
    return _complete(settings, pipeline, store, entry, progress)


def _complete(settings: Settings, pipeline: Pipeline, store: Store, entry: Promotion, progress: Progress) -> RolledBack:
    """Move what the ledger's first row says and write the second; doing any of it twice changes nothing."""
    finish_move(settings, pipeline, entry)
    step("champion moved")
    if entry.action == "rollback" and entry.from_version is not None and entry.from_version != entry.to_version:
        mark_rolled_back(settings, pipeline, entry.from_version)
    step("model marked")
    if entry.to_published is not None:
        for version in versions_left(store, entry):
            store.quarantine(version, _quarantine_reason(entry))
        step("quarantined")
        # A version that was published since, past this rollback, stays: nobody decided about it.
        pointer = store.pointer()
        if pointer.current == entry.from_published:
            # A pin that was set since is a later decision than this one, and stays.
            pinned = None if pointer.pinned == entry.from_pinned else pointer.pinned
            store.serve_again(entry.to_published, pinned=pinned)
        step("pointer moved")
    targets: dict[str, Any] = {}
    try:
        if entry.to_published is not None:
            with stands_here(pipeline.name, "Rolled back."):
                targets = sync_targets(settings, pipeline, store, progress)
            step("targets told")
    finally:
        closing = ended(entry)
        record_promotion(settings, closing)
    step("recorded")
    return RolledBack(store.current(), closing, targets)


def _resume(settings: Settings, pipeline: Pipeline, store: Store, entry: Promotion, progress: Progress) -> RolledBack:
    try:
        assert entry.to_version is not None
        model_version(settings, pipeline, entry.to_version)
        if entry.to_published is not None:
            store.verified(entry.to_published)
    except (NotFoundError, DamagedError) as gone:
        return _undo(settings, pipeline, store, entry, f"undone after it was cut short: {gone.message}", progress)
    done = replace(_complete(settings, pipeline, store, entry, progress), resumed=True)
    pinned = store.pointer().pinned
    stays = "" if pinned is None else f"; version {pinned} stays pinned"
    progress(f"finished the {entry.action} of {pipeline.name} that was cut short{stays}", None)
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
    with stands_here(pipeline.name, f"The {entry.action} is undone."):
        targets = {} if store.pointer().serving is None else sync_targets(settings, pipeline, store, progress)
    return RolledBack(store.current(), closing, targets, resumed=True)


def _quarantine_reason(entry: Promotion) -> str:
    return f"rolled back to version {entry.to_published} at {timestamp(entry.recorded_at)}"
