"""Rollback: an earlier champion and its published predictions become current together, or not at all.

A row of the promotion ledger ("begun") before anything moves, and a second ("passed") at the end: without that, the
next operation finishes the rollback first (`recover_interrupted`), or undoes it if its target is gone or damaged.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from forecache.base.errors import CheckError, ConflictError, DamagedError, NotFoundError
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.base.steps import rollback_step
from forecache.declare import Pipeline, Trainable
from forecache.kit.lease import Lease
from forecache.models.registry.alias_moves import (
    close_operation,
    describe_move,
    finish_move,
    make_closing_row,
    make_opening_row,
    mark_rolled_back,
    reconcile_aliases,
    undo_move,
)
from forecache.models.registry.model_versions import (
    champion,
    list_models,
    model_version,
    registry_lock,
    verified_folder,
)
from forecache.models.registry.promotions import (
    Promotion,
    earlier_champions,
    find_unfinished,
    promotions,
    record_promotion,
    rolled_back_versions,
)
from forecache.operations.distribute_release import report_replica_failure
from forecache.serve.store.manifest import Manifest, timestamp
from forecache.serve.store.push_pull import sync_targets
from forecache.serve.store.remote_store import open_store
from forecache.serve.store.store import Store


def plan_move(
    settings: Settings,
    pipeline: Trainable,
    store: Store,
    *,
    model: int,
    published: Manifest | None,
    actor: str,
    reason: str,
) -> Promotion:
    """The ledger row of a rollback to a model and, if given, to a published version with that model's predictions.

    Raises:
        CheckError: The model was never champion, or its artifact was changed.
        ConflictError: The model, or one with the same weights, is the champion and the version is current:
            there is nothing to move.
    """
    entries = promotions(settings, pipeline.name)
    current, served = champion(settings, pipeline).version, store.pointer().current
    if model == current and (published is None or published.version == served):
        raise ConflictError(f"Model {pipeline.name!r} version {model} is the champion, and its predictions are served.")
    known = earlier_champions(entries)
    if model not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise CheckError(
            f"Model {pipeline.name!r} version {model} was never champion.",
            remedy=f"Past champions: {listed}. To go back with the predictions alone, add --keep-model.",
        )
    chosen = model_version(settings, pipeline, model)
    if model != current and is_same_model(settings, pipeline, model, current):
        raise ConflictError(
            f"Model {pipeline.name!r} version {model} has the same weights as the champion, version {current}.",
            remedy="Name a version with other weights; without a number, the latest one is taken.",
        )
    verified_folder(settings, chosen)
    entry = make_opening_row(describe_move(settings, pipeline, chosen, action="rollback", actor=actor, reason=reason))
    if published is None:
        return entry
    return replace(
        entry,
        from_published=served,
        from_pinned=store.pointer().pinned,
        to_published=published.version,
        predictions_version=published.source.delta_version,
    )


def find_previous_champion(settings: Settings, pipeline: Trainable) -> int:
    """The latest earlier champion that was not rolled back, and whose weights are not those of one that was."""
    current = champion(settings, pipeline).version
    entries = promotions(settings, pipeline.name)
    excluded = rolled_back_versions(entries) | {current}
    weights = weights_by_version(settings, pipeline)
    same = {weights[version] for version in excluded if version in weights}
    past = [version for version in earlier_champions(entries) if version not in excluded]
    past = [version for version in past if weights.get(version) not in same]
    if not past:
        raise NotFoundError(
            f"Model {pipeline.name!r} version {current} is its first champion.",
            remedy="There is nothing to go back to.",
        )
    return past[0]


def weights_by_version(settings: Settings, pipeline: Trainable) -> dict[int, str]:
    """The known digests of weights by version of a pipeline's model."""
    return {v.version: v.weights for v in list_models(settings, pipeline) if v.weights is not None}


def is_same_model(settings: Settings, pipeline: Trainable, first: int, second: int) -> bool:
    """Tell if two versions are equal or have the same weights, as two machines that train at once make them."""
    weights = weights_by_version(settings, pipeline)
    return first == second or (first in weights and weights[first] == weights.get(second))


def find_published_by_model(store: Store, model: int) -> Manifest:
    """The newest published version with a model's predictions, current or earlier, that is not blocked."""
    current, bad = store.pointer().current, store.blocked_versions()
    found = [m for m in store.versions() if m.version not in bad and current is not None and m.version <= current]
    made = [manifest for manifest in found if manifest.provenance.model_version == model]
    if made:
        return made[-1]
    retained = ", ".join(f"{m.version} by model {m.provenance.model_version}" for m in found) or "none"
    raise NotFoundError(
        f"The store of {store.pipeline} retains no good version that model {model} made; it has {retained}.",
        remedy=f"Move the model with `forecache models rollback {store.pipeline} --to {model} --model-only`, "
        f"then `forecache run {store.pipeline}` scores the newest as-of date with it and publishes that.",
    )


def versions_to_block(store: Store, entry: Promotion) -> list[int]:
    """Store versions that a rollback blocks: the current one, and those after its target by models it leaves."""
    assert entry.from_published is not None
    assert entry.to_published is not None
    if entry.from_published == entry.to_published:
        return []
    made_by = {manifest.version: manifest.provenance.model_version for manifest in store.versions()}
    models = {made_by.get(entry.from_published), entry.from_version} - {entry.to_version}
    bad = store.blocked_versions()
    between = [
        version
        for version, model in made_by.items()
        if entry.to_published < version < entry.from_published and model in models and version not in bad
    ]
    return [*between, entry.from_published]  # included even if its manifest cannot be read


def undo_operation(
    settings: Settings, pipeline: Trainable, store: Store, entry: Promotion, lease: Lease, *, reason: str
) -> Promotion:
    """Move the store and the aliases back to where they were before the operation; returns the closing ledger row."""
    before = store.pointer()
    lifted = [version for version, why in store.blocked_versions().items() if why == block_reason(entry)]
    pointer = before.unblock(lifted)
    if entry.from_published is not None and pointer.current == entry.to_published:
        pointer = replace(pointer, current=entry.from_published)
    if pointer != before:
        store.move(pointer.advance())
    undo_move(settings, pipeline, entry, lease)
    closing = replace(
        entry,
        verdict="undone",
        reason=reason,
        to_version=entry.from_version,
        to_published=entry.from_published,
        predictions_version=None,
        recorded_at=datetime.now(timezone.utc),
    )
    return close_operation(settings, pipeline, closing, lease)


def block_reason(entry: Promotion) -> str:
    """The reason of an operation for blocking, by which its undo finds the versions."""
    return f"rolled back to version {entry.to_published} at {timestamp(entry.recorded_at)}"


@dataclass(frozen=True)
class RollbackResult:
    served: Manifest | None  # the version that is served now, None if nothing is published
    entry: Promotion | None = None  # the closing ledger row, None if only the store moved
    targets: dict[str, Any] = field(default_factory=dict)  # the changes in Redis and in the remote, by target
    resumed: bool = False  # True if it finished or undid an earlier, interrupted operation, as `entry.verdict` says


def roll_back(
    settings: Settings,
    pipeline: Trainable,
    *,
    version: int | None = None,
    keep_model: bool = False,
    actor: str,
    reason: str = "",
    progress: Progress = no_progress,
) -> RollbackResult:
    """Serve an earlier version again, and make the model of its predictions the champion.

    The present version is blocked and, if another model made it, that model is marked as rolled back: no later run
    makes them current again. An interrupted rollback is finished instead, and nothing else is done. Without `version`,
    the newest retained one before the current is served that is not blocked; `keep_model` leaves the champion.

    Raises:
        NotFoundError: There is no such version, or its model is not registered any more.
        CheckError: Its model was never champion, or that model's artifact was changed. Nothing has moved.
        ConflictError: Another process is changing the store, or another decision was recorded meanwhile.
        NotEverywhereError: The rollback is done here, but Redis or the remote could not be updated.
    """
    with _locked_store(settings, pipeline, progress) as (store, lease, resumed):
        if resumed is not None:
            return resumed
        target = store.rollback_target(version)
        current = store.pointer().current
        assert current is not None
        model, left = target.provenance.model_version, _model_of(store, current)
        if keep_model or left is None or is_same_model(settings, pipeline, left, model):
            return _move_store_only(settings, pipeline, store, current, target, progress)
        entries = reconcile_aliases(settings, pipeline, lease)
        now = champion(settings, pipeline).version
        if is_same_model(settings, pipeline, now, model):
            model = now
        entry = plan_move(settings, pipeline, store, model=model, published=target, actor=actor, reason=reason)
        return _begin_operation(settings, pipeline, store, entry, lease, entries, progress)


def roll_back_model(
    settings: Settings,
    pipeline: Trainable,
    *,
    to: int | None = None,
    keep_published: bool = False,
    actor: str,
    reason: str = "",
    progress: Progress = no_progress,
) -> RollbackResult:
    """Make an earlier champion the champion again, and serve the newest version with its predictions.

    Every later store version with predictions of the present champion is blocked, and that model is marked as
    rolled back. An interrupted rollback is finished instead, and nothing else is done. Without `to`, it is the latest
    earlier champion that was not rolled back; `keep_published` leaves the served version until the next publish.

    Raises:
        NotFoundError: There is no champion, none before it, or the store retains no version with its predictions.
        CheckError: The version was never champion, or its artifact was changed. Nothing has moved.
        ConflictError: Another process is changing the store, another decision about the model was recorded meanwhile,
            or there is nothing to move.
        NotEverywhereError: The rollback is done here, but Redis or the remote could not be updated.
    """
    with _locked_store(settings, pipeline, progress) as (store, lease, resumed):
        if resumed is not None:
            return resumed
        entries = reconcile_aliases(settings, pipeline, lease)
        model = find_previous_champion(settings, pipeline) if to is None else to
        anything = store.pointer().current is not None
        published = find_published_by_model(store, model) if anything and not keep_published else None
        if published is not None:
            store.verify_files(published.version)
        entry = plan_move(settings, pipeline, store, model=model, published=published, actor=actor, reason=reason)
        return _begin_operation(settings, pipeline, store, entry, lease, entries, progress)


def recover_interrupted(
    settings: Settings, pipeline: Trainable, *, progress: Progress = no_progress
) -> RollbackResult | None:
    """Finish or undo an interrupted rollback or promotion by a person; returns None if there is none.

    Raises:
        ConflictError: Another process is changing the store.
    """
    if find_unfinished(promotions(settings, pipeline.name)) is None:
        return None
    with _locked_store(settings, pipeline, progress) as (_, _, resumed):
        return resumed


@contextmanager
def _locked_store(
    settings: Settings, pipeline: Trainable, progress: Progress
) -> Iterator[tuple[Store, Lease, RollbackResult | None]]:
    """The pipeline's store, locked so that no other process moves its models or versions, and the registry's lease.

    An operation that was interrupted is finished first; its result comes beside them.
    """
    store, resumed = open_store(settings, pipeline.name), None
    with (
        registry_lock(settings, pipeline.name, action="rolling back") as lease,
        store.hold("rollback", progress=progress),
    ):
        interrupted = find_unfinished(promotions(settings, pipeline.name))
        if interrupted is not None:
            resumed = _resume_operation(settings, pipeline, store, interrupted, lease, progress)
        yield store, lease, resumed


def _model_of(store: Store, version: int) -> int | None:
    """The model that made a version; None if the manifest is damaged or gone, for which the model is not to blame."""
    try:
        return store.manifest(version).provenance.model_version
    except (DamagedError, NotFoundError):
        return None


def _move_store_only(
    settings: Settings, pipeline: Trainable, store: Store, current: int, target: Manifest, progress: Progress
) -> RollbackResult:
    """Quarantine the current version and move the pointer to another one; the champion stays."""
    reason = f"rolled back to version {target.version} at {timestamp(datetime.now(timezone.utc))}"
    store.serve_again(target.version, bad={current: reason})
    with report_replica_failure(pipeline.name, "Rolled back."):
        return RollbackResult(target, targets=_sync_published(settings, pipeline, store, progress))


def _sync_published(settings: Settings, pipeline: Trainable, store: Store, progress: Progress) -> dict[str, Any]:
    """Update Redis and the remote to the served version; a real-time model publishes none."""
    return sync_targets(settings, pipeline, store, progress) if isinstance(pipeline, Pipeline) else {}


def _begin_operation(
    settings: Settings,
    pipeline: Trainable,
    store: Store,
    entry: Promotion,
    lease: Lease,
    entries: Sequence[Promotion],
    progress: Progress,
) -> RollbackResult:
    """Record the opening row after the rows that the decision was made on, and carry the operation out."""
    rollback_step("planned")
    record_promotion(settings, entry, after=entries[-1] if entries else None, lease=lease)
    rollback_step("begun")
    return _complete_operation(settings, pipeline, store, entry, lease, progress)


def _complete_operation(
    settings: Settings, pipeline: Trainable, store: Store, entry: Promotion, lease: Lease, progress: Progress
) -> RollbackResult:
    """Carry out the operation of an opening ledger row and write the closing row; every step is idempotent."""
    finish_move(settings, pipeline, entry, lease)
    rollback_step("champion moved")
    if entry.action == "rollback" and entry.from_version is not None and entry.from_version != entry.to_version:
        mark_rolled_back(settings, pipeline, entry.from_version)
    rollback_step("model marked")
    if entry.to_published is not None:
        bad = dict.fromkeys(versions_to_block(store, entry), block_reason(entry))
        before = store.pointer()
        pointer = before.block(bad)
        # A version that was published after this rollback began stays current: the decision was not about it.
        if pointer.current == entry.from_published:
            # A pin that was set after the rollback began is a later decision, and stays.
            pinned = None if pointer.pinned == entry.from_pinned else pointer.pinned
            pointer = replace(pointer, current=entry.to_published, pinned=pinned)
        if pointer != before:
            store.move(pointer.advance())
        rollback_step("pointer moved")
    targets: dict[str, Any] = {}
    try:
        if entry.to_published is not None:
            with report_replica_failure(pipeline.name, "Rolled back."):
                targets = _sync_published(settings, pipeline, store, progress)
            rollback_step("targets synced")
    finally:
        # Otherwise the next operation, on any machine, makes the move in the remote, which other machines follow.
        if entry.to_published is None or not store.is_alone:
            closing = close_operation(settings, pipeline, make_closing_row(entry), lease)
    rollback_step("recorded")
    return RollbackResult(store.current(), closing, targets)


def _resume_operation(
    settings: Settings, pipeline: Trainable, store: Store, entry: Promotion, lease: Lease, progress: Progress
) -> RollbackResult:
    try:
        assert entry.to_version is not None
        model_version(settings, pipeline, entry.to_version)
        if entry.to_published is not None:
            store.verify_files(entry.to_published)
    except (NotFoundError, DamagedError) as gone:
        reason = f"undone after an interruption: {gone.message}"
        closing = undo_operation(settings, pipeline, store, entry, lease, reason=reason)
        with report_replica_failure(pipeline.name, f"The {entry.action} is undone."):
            targets = {} if store.pointer().serving is None else _sync_published(settings, pipeline, store, progress)
        return RollbackResult(store.current(), closing, targets, resumed=True)
    done = replace(_complete_operation(settings, pipeline, store, entry, lease, progress), resumed=True)
    pinned = store.pointer().pinned
    stays = "" if pinned is None else f"; version {pinned} stays pinned"
    progress(f"finished the interrupted {entry.action} of {pipeline.name}{stays}", None)
    return done
