"""Undo an interrupted rollback or promotion whose target is gone or damaged."""

from dataclasses import replace
from datetime import datetime, timezone

from forecache.pipeline import Pipeline
from forecache.registry.aliases import undo_move
from forecache.registry.moves import close_operation
from forecache.registry.promotions import Promotion
from forecache.settings import Settings
from forecache.store.manifest import timestamp
from forecache.store.store import Store


def undo_operation(settings: Settings, pipeline: Pipeline, store: Store, entry: Promotion, *, reason: str) -> Promotion:
    """Move the store and the aliases back to where they were before the operation; returns the closing ledger row."""
    for version, why in store.quarantined().items():
        if why == quarantine_reason(entry):
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
    return close_operation(settings, pipeline, closing)


def quarantine_reason(entry: Promotion) -> str:
    """The quarantine reason of an operation, by which its undo finds the versions."""
    return f"rolled back to version {entry.to_published} at {timestamp(entry.recorded_at)}"
