"""MLflow's aliases `champion`, `previous` and `challenger` of a model, which follow the promotion ledger."""

from collections.abc import Sequence

from forecache.base.errors import ConflictError
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.models.registry.promotions import Promotion, find_unfinished, last_promotion, promotions
from forecache.models.registry.versions.model_versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    ROLLED_BACK,
    find_champion,
    list_models,
    model_version,
)
from forecache.models.tracking.client import connect_mlflow


def reconcile_aliases(settings: Settings, pipeline: Trainable) -> list[Promotion]:
    """Move the aliases to where the ledger's last row says, if they are elsewhere; returns the ledger's rows.

    The process that recorded a decision may have died before it moved the aliases, or be about to on another machine.

    Raises:
        ConflictError: A rollback, or a promotion by a person, is under way on another machine or was interrupted.
    """
    entries = promotions(settings, pipeline.name)
    interrupted = find_unfinished(entries)
    if interrupted is not None:
        raise ConflictError(
            f"A {interrupted.action} of model {pipeline.name!r} to version {interrupted.to_version} by "
            f"{interrupted.actor} is under way on another machine, or was interrupted.",
            remedy=f"Run again when it has ended; `forecache models rollback {pipeline.name}` finishes an interrupted "
            "one.",
        )
    last = entries[-1] if entries else None
    if last is not None and last.to_version is not None:
        before = find_champion(settings, pipeline)
        if (before is None or before.version != last.to_version) and _is_registered(settings, pipeline, entries):
            finish_move(settings, pipeline, last)
    return entries


def _is_registered(settings: Settings, pipeline: Trainable, entries: Sequence[Promotion]) -> bool:
    """Tell if the registry has the ledger's champion; a new registry may have another version under its number."""
    number = entries[-1].to_version
    promoted = [(e.training_table, e.training_version) for e in entries if e.to_version == number == e.about]
    return any(
        version.version == number and version.is_own and version.training_table in promoted
        for version in list_models(settings, pipeline)
    )


def finish_move(settings: Settings, pipeline: Trainable, entry: Promotion) -> None:
    """Move the aliases as the ledger row says, or as a later row does that was recorded meanwhile; idempotent.

    A challenger that becomes the champion loses the alias `challenger`.
    """
    # Each mover reads the ledger again after its move, so that a slow machine cannot leave them at its own row.
    while True:
        _move_aliases(settings, pipeline, entry)
        last = last_promotion(settings, pipeline.name)
        if last is None or last.to_version == entry.to_version:
            return
        if last.to_version is None:
            undo_move(settings, pipeline, last)
            return
        entry = last


def _move_aliases(settings: Settings, pipeline: Trainable, entry: Promotion) -> None:
    client = connect_mlflow(settings)
    assert entry.to_version is not None
    end_challenge(settings, pipeline, entry.to_version)
    if entry.from_version is not None and entry.from_version != entry.to_version:
        client.set_registered_model_alias(pipeline.name, PREVIOUS, str(entry.from_version))
    client.set_registered_model_alias(pipeline.name, CHAMPION, str(entry.to_version))
    client.set_model_version_tag(pipeline.name, str(entry.to_version), "gate", "passed")


def end_challenge(settings: Settings, pipeline: Trainable, version: int) -> None:
    """Remove the alias `challenger` from a version, if it has it."""
    if CHALLENGER in model_version(settings, pipeline, version).aliases:
        connect_mlflow(settings).delete_registered_model_alias(pipeline.name, CHALLENGER)


def undo_move(settings: Settings, pipeline: Trainable, entry: Promotion) -> None:
    """Move the aliases back to where they were before the ledger row; idempotent."""
    client = connect_mlflow(settings)
    client.delete_registered_model_alias(pipeline.name, PREVIOUS)
    if entry.from_version is None:
        client.delete_registered_model_alias(pipeline.name, CHAMPION)
        return
    client.set_registered_model_alias(pipeline.name, CHAMPION, str(entry.from_version))
    client.set_model_version_tag(pipeline.name, str(entry.from_version), "gate", "passed")


def mark_rolled_back(settings: Settings, pipeline: Trainable, version: int) -> None:
    """Tag a version as rolled back, so that only a person can promote it again."""
    connect_mlflow(settings).set_model_version_tag(pipeline.name, str(version), "gate", ROLLED_BACK)
