"""MLflow's aliases `champion`, `previous` and `challenger` of a model, moved by the gate, a person, or a rollback.

Each move is first written to the ledger, whose last row says which version is the champion; the aliases follow it.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone

from forecache.base.errors import CheckError, ConflictError
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.kit.lease import Lease
from forecache.models.registry.gate.verdicts import outdated_reason
from forecache.models.registry.model_versions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    REJECTED,
    ROLLED_BACK,
    WAITING,
    ModelVersion,
    find_champion,
    list_models,
    model_version,
    registry_lock,
    verified_folder,
)
from forecache.models.registry.promotions import (
    OtherDecisionError,
    Promotion,
    earlier_champions,
    find_closing_row,
    find_unfinished,
    last_promotion,
    promotions,
    record_promotion,
)
from forecache.models.tracking.client import connect_mlflow


def reconcile_aliases(settings: Settings, pipeline: Trainable, lease: Lease) -> list[Promotion]:
    """Move the aliases to where the ledger's last row says, if they are elsewhere; returns the ledger's rows.

    The process that recorded a decision may have died before it moved the aliases, or have lost its lease.
    ConflictError if a rollback or a person's promotion was interrupted; in a folder that machines share, where
    there is no lease, also if it is under way on another one.
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
            finish_move(settings, pipeline, last, lease)
    return entries


def _is_registered(settings: Settings, pipeline: Trainable, entries: Sequence[Promotion]) -> bool:
    """Tell if the registry has the ledger's champion; a new registry may have another version under its number."""
    number = entries[-1].to_version
    promoted = [(e.training_table, e.training_version) for e in entries if e.to_version == number == e.about]
    return any(
        version.version == number and version.is_own and version.training_table in promoted
        for version in list_models(settings, pipeline)
    )


def finish_move(settings: Settings, pipeline: Trainable, entry: Promotion, lease: Lease) -> None:
    """Move the aliases as the ledger row says, or as a later row does that was recorded meanwhile; idempotent.

    A challenger that becomes the champion loses the alias `challenger`. LeaseLostError if another process has taken
    over the lease: that one moves them.
    """
    lease.confirm()
    # MLflow cannot refuse a move. Each mover reads the ledger again after its move, so that a process that stood still
    # after it had confirmed its lease does not leave them at its own row.
    while True:
        _move_aliases(settings, pipeline, entry)
        last = last_promotion(settings, pipeline.name)
        if last is None or last.to_version == entry.to_version:
            return
        if last.to_version is None:
            _move_back(settings, pipeline, last)
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


def undo_move(settings: Settings, pipeline: Trainable, entry: Promotion, lease: Lease) -> None:
    """Move the aliases back to where they were before the ledger row; idempotent. Raises as `finish_move`."""
    lease.confirm()
    _move_back(settings, pipeline, entry)


def _move_back(settings: Settings, pipeline: Trainable, entry: Promotion) -> None:
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


def promote_version(
    settings: Settings,
    pipeline: Trainable,
    version: int,
    *,
    actor: str,
    reason: str = "",
    run_id: str = "",
    outdated_verdict: bool = False,
) -> Promotion:
    """Make a version that passed the gate, or waits for approval, the champion, by a person's decision.

    Args:
        outdated_verdict: Promote a version that waits for approval even if its verdict is outdated.

    Raises:
        NotFoundError: The version does not exist.
        ConflictError: It, or a version with the same inputs and weights, is the champion already; or another decision
            was recorded meanwhile or is under way; or this process lost its lease.
        CheckError: It did not pass the gate, its artifact was changed, or it waits for approval with a verdict that is
            outdated because the champion or the gate's declaration has changed.
    """
    with registry_lock(settings, pipeline.name, action=f"promoting version {version}", run_id=run_id) as lease:
        entries = reconcile_aliases(settings, pipeline, lease)
        chosen = model_version(settings, pipeline, version)
        if CHAMPION in chosen.aliases:
            raise ConflictError(f"Model {pipeline.name!r} version {version} is the champion already.")
        _refuse_equal(settings, pipeline, chosen, entries)
        if chosen.gate not in ("passed", WAITING, ROLLED_BACK):
            why = chosen.tags.get("gate_reason", "it was never judged")
            raise CheckError(
                f"Model {pipeline.name!r} version {version} did not pass the gate: {why}.",
                remedy="Train a better one, or change the gate in the pipeline's declaration.",
            )
        entry = describe_move(settings, pipeline, chosen, action="promote", actor=actor, reason=reason, run_id=run_id)
        if chosen.gate == WAITING and (why := outdated_reason(pipeline, chosen, entry.from_version)):
            if not outdated_verdict:
                raise _outdated_error(pipeline, version, why)
            entry = replace(entry, outdated_verdict=True, reason=f"{reason} (on an outdated verdict: {why})".strip())
        verified_folder(settings, chosen)
        entry = make_opening_row(entry)
        record_promotion(settings, entry, after=entries[-1] if entries else None, lease=lease)
        finish_move(settings, pipeline, entry, lease)
        return close_operation(settings, pipeline, make_closing_row(entry), lease)


def _refuse_equal(settings: Settings, pipeline: Trainable, chosen: ModelVersion, entries: Sequence[Promotion]) -> None:
    equal = find_equal_champion(settings, pipeline, chosen, entries)
    if equal is not None:
        is_champion = CHAMPION in equal.aliases
        raise ConflictError(
            f"Model {pipeline.name!r} version {chosen.version} has the same inputs and weights as version "
            f"{equal.version}, which {'is the champion already' if is_champion else 'was champion before'}.",
            remedy="" if is_champion else f"`forecache promote {pipeline.name} {equal.version}` brings that back.",
        )


def _outdated_error(pipeline: Trainable, version: int, why: str) -> CheckError:
    name = pipeline.name
    return CheckError(
        f"The verdict on model {name!r} version {version} is outdated: {why}.",
        remedy=f"`forecache models evaluate {name} {version}`, or the decision `evaluate` of the job {name}_approve, "
        "evaluates it again without training. To promote it anyway, add --outdated-verdict, or set it in the job.",
    )


def reject_version(
    settings: Settings, pipeline: Trainable, version: int, *, actor: str, reason: str = "", run_id: str = ""
) -> Promotion:
    """Reject a version that waits for approval, by a person's decision; the champion does not change, a challenger
    loses its alias. NotFoundError without the version, ConflictError if it does not wait or another decision is made
    meanwhile."""
    with registry_lock(settings, pipeline.name, action=f"rejecting version {version}", run_id=run_id) as lease:
        entries = reconcile_aliases(settings, pipeline, lease)
        chosen = model_version(settings, pipeline, version)
        if chosen.gate != WAITING:
            raise ConflictError(f"Model {pipeline.name!r} version {version} does not wait for approval: {chosen.gate}.")
        entry = describe_move(settings, pipeline, chosen, action="reject", actor=actor, reason=reason, run_id=run_id)
        entry = replace(entry, to_version=entry.from_version, candidate=version, verdict="failed")
        record_promotion(settings, entry, after=entries[-1] if entries else None, lease=lease)
        end_challenge(settings, pipeline, version)
        client = connect_mlflow(settings)
        client.set_model_version_tag(pipeline.name, str(version), "gate_reason", f"rejected by {actor}: {reason}")
        client.set_model_version_tag(pipeline.name, str(version), "gate", REJECTED)
        return entry


def describe_move(
    settings: Settings,
    pipeline: Trainable,
    to: ModelVersion,
    *,
    action: str,
    actor: str,
    reason: str = "",
    run_id: str = "",
) -> Promotion:
    """The ledger row for a move of the alias `champion` from its present version to `to`; writes nothing."""
    before = find_champion(settings, pipeline)
    table, table_version = to.training_table
    return Promotion(
        pipeline=pipeline.name,
        action=action,
        actor=actor,
        from_version=before.version if before else None,
        to_version=to.version,
        verdict="passed",
        reason=reason,
        metrics=dict(to.metrics),
        training_table=table,
        training_version=table_version,
        run_id=run_id,
        recorded_at=datetime.now(timezone.utc),
    )


def make_opening_row(entry: Promotion) -> Promotion:
    return replace(entry, verdict="begun", operation=f"{entry.recorded_at:%Y%m%dT%H%M%S%f}")


def make_closing_row(entry: Promotion) -> Promotion:
    """The closing row of an operation, timestamped now."""
    return replace(entry, verdict="passed", recorded_at=datetime.now(timezone.utc))


def find_equal_champion(
    settings: Settings, pipeline: Trainable, version: ModelVersion, entries: Sequence[Promotion]
) -> ModelVersion | None:
    """Another version with the same inputs and weights that has been champion, None if there is none.

    Two machines that train at once register two such versions. If both have been champion, only the
    present champion counts for the other one.
    """
    past = earlier_champions(entries)
    if "inputs" not in version.tags:
        return None
    return next(
        (
            other
            for other in list_models(settings, pipeline)
            if other.version != version.version
            and other.tags.get("inputs") == version.tags["inputs"]
            and (CHAMPION in other.aliases or (other.version in past and version.version not in past))
        ),
        None,
    )


def close_operation(settings: Settings, pipeline: Trainable, closing: Promotion, lease: Lease) -> Promotion:
    """Append the closing row of an operation, unless another machine has closed it; returns the row that closes it."""
    while True:
        entries = promotions(settings, pipeline.name)
        other = find_closing_row(entries, closing.operation)
        if other is not None:
            reconcile_aliases(settings, pipeline, lease)
            return other
        try:
            record_promotion(settings, closing, after=entries[-1], lease=lease)
        except OtherDecisionError:
            continue
        return closing
