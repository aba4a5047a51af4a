"""Moving the alias `champion`: by the gate, by a person, or by a rollback. Each move is first written to the ledger."""

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from forecache.errors import CheckError, ConflictError
from forecache.pipeline import Pipeline
from forecache.registry.gate.verdicts import outdated
from forecache.registry.promotions import Promotion, record_promotion
from forecache.registry.versions.models import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    REJECTED,
    ROLLED_BACK,
    WAITING,
    ModelVersion,
    find_champion,
    model_version,
    registry_lock,
    verified_folder,
)
from forecache.settings import Settings
from forecache.tracking.artifacts import CHECKSUMS_TAG
from forecache.tracking.client import tracking


def promote(
    settings: Settings,
    pipeline: Pipeline,
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
        ConflictError: It is the champion already.
        CheckError: It did not pass the gate, its artifact was changed, or it waits for approval with a verdict that is
            outdated because the champion or the gate's declaration has changed.
    """
    with registry_lock(settings):
        chosen = model_version(settings, pipeline, version)
        if CHAMPION in chosen.aliases:
            raise ConflictError(f"Model {pipeline.name!r} version {version} is the champion already.")
        if chosen.gate not in ("passed", WAITING, ROLLED_BACK):
            why = chosen.tags.get("gate_reason", "it was never judged")
            raise CheckError(
                f"Model {pipeline.name!r} version {version} did not pass the gate: {why}.",
                remedy="Train a better one, or change the gate in the pipeline's declaration.",
            )
        entry = described_move(settings, pipeline, chosen, action="promote", actor=actor, reason=reason, run_id=run_id)
        if chosen.gate == WAITING and (why := outdated(pipeline, chosen, entry.from_version)):
            if not outdated_verdict:
                raise _outdated(pipeline, version, why)
            entry = replace(entry, outdated_verdict=True, reason=f"{reason} (on an outdated verdict: {why})".strip())
        verified_folder(settings, chosen)
        entry = begun(entry)
        record_promotion(settings, entry)
        finish_move(settings, pipeline, entry)
        closing = ended(entry)
        record_promotion(settings, closing)
        return closing


def _outdated(pipeline: Pipeline, version: int, why: str) -> CheckError:
    name = pipeline.name
    return CheckError(
        f"The verdict on model {name!r} version {version} is outdated: {why}.",
        remedy=f"`forecache models judge {name} {version}`, or the decision `judge` of the job approve_{name}, judges "
        "it again without training. To promote it all the same, add --outdated-verdict, or set it in the job.",
    )


def reject(
    settings: Settings, pipeline: Pipeline, version: int, *, actor: str, reason: str = "", run_id: str = ""
) -> Promotion:
    """Reject a version that waits for approval, by a person's decision; the champion does not change.

    A rejected challenger loses the alias `challenger`.

    Raises:
        NotFoundError: The version does not exist.
        ConflictError: It does not wait for approval.
    """
    with registry_lock(settings):
        chosen = model_version(settings, pipeline, version)
        if chosen.gate != WAITING:
            raise ConflictError(f"Model {pipeline.name!r} version {version} does not wait for approval: {chosen.gate}.")
        entry = described_move(settings, pipeline, chosen, action="reject", actor=actor, reason=reason, run_id=run_id)
        entry = replace(entry, to_version=entry.from_version, candidate=version, verdict="failed")
        record_promotion(settings, entry)
        end_challenge(settings, pipeline, version)
        client = tracking(settings)
        client.set_model_version_tag(pipeline.name, str(version), "gate_reason", f"rejected by {actor}: {reason}")
        client.set_model_version_tag(pipeline.name, str(version), "gate", REJECTED)
        return entry


def described_move(
    settings: Settings,
    pipeline: Pipeline,
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


def begun(entry: Promotion) -> Promotion:
    """The opening row of an operation."""
    return replace(entry, verdict="begun", operation=f"{entry.recorded_at:%Y%m%dT%H%M%S%f}")


def ended(entry: Promotion) -> Promotion:
    """The closing row of an operation, timestamped now."""
    return replace(entry, verdict="passed", recorded_at=datetime.now(timezone.utc))


def finish_move(settings: Settings, pipeline: Pipeline, entry: Promotion) -> None:
    """Move the aliases as the ledger row says; idempotent.

    A challenger that becomes the champion loses the alias `challenger`.
    """
    client = tracking(settings)
    assert entry.to_version is not None
    end_challenge(settings, pipeline, entry.to_version)
    if entry.from_version is not None and entry.from_version != entry.to_version:
        client.set_registered_model_alias(pipeline.name, PREVIOUS, str(entry.from_version))
    client.set_registered_model_alias(pipeline.name, CHAMPION, str(entry.to_version))
    client.set_model_version_tag(pipeline.name, str(entry.to_version), "gate", "passed")


def end_challenge(settings: Settings, pipeline: Pipeline, version: int) -> None:
    """Remove the alias `challenger` from a version, if it has it."""
    if CHALLENGER in model_version(settings, pipeline, version).aliases:
        tracking(settings).delete_registered_model_alias(pipeline.name, CHALLENGER)


def undo_move(settings: Settings, pipeline: Pipeline, entry: Promotion) -> None:
    """Move the aliases back to where they were before the ledger row; idempotent."""
    client = tracking(settings)
    client.delete_registered_model_alias(pipeline.name, PREVIOUS)
    if entry.from_version is None:
        client.delete_registered_model_alias(pipeline.name, CHAMPION)
        return
    client.set_registered_model_alias(pipeline.name, CHAMPION, str(entry.from_version))
    client.set_model_version_tag(pipeline.name, str(entry.from_version), "gate", "passed")


def mark_rolled_back(settings: Settings, pipeline: Pipeline, version: int) -> None:
    """Tag a version as rolled back, so that only a person can promote it again."""
    tracking(settings).set_model_version_tag(pipeline.name, str(version), "gate", ROLLED_BACK)


def diff_models(settings: Settings, pipeline: Pipeline, first: int, second: int) -> dict[str, tuple[Any, Any]]:
    """Pairs of values that differ between two versions: metrics, training data, code, features, parameters."""
    client = tracking(settings)
    sides = []
    for number in (first, second):
        version = model_version(settings, pipeline, number)
        parameters = client.get_run(version.run_id).data.params if version.run_id else {}
        tags = {name: value for name, value in version.tags.items() if name != CHECKSUMS_TAG}
        sides.append({**parameters, **tags, **version.metrics})
    names = sorted(set(sides[0]) | set(sides[1]))
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
