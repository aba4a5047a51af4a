"""Approval: a person approves or rejects a model that passed the gate and waits, or has the gate judge it again."""

from forecache.base.errors import CheckError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.models.registry.alias_moves import promote_version, reject_version
from forecache.models.registry.gate.verdicts import GateVerdict
from forecache.models.registry.model_versions import REJECTED, ROLLED_BACK, WAITING, list_models, model_version
from forecache.models.registry.promotions import Promotion
from forecache.models.registry.run_gate import run_gate
from forecache.operations.rollback import recover_interrupted


def approve(
    settings: Settings,
    pipeline: Trainable,
    *,
    version: int | None = None,
    approved: bool = True,
    actor: str,
    reason: str = "",
    run_id: str = "",
    outdated_verdict: bool = False,
) -> Promotion:
    """Make the waiting version the champion, or reject it; returns the ledger's row.

    Raises:
        NotFoundError: No version waits, or the version does not exist.
        ConflictError: The version is the champion already, or does not wait.
        CheckError: It did not pass the gate, its verdict is outdated, or its artifact was changed.
    """
    recover_interrupted(settings, pipeline)
    version = _newest_waiting(settings, pipeline) if version is None else version
    by = {"actor": actor, "reason": reason, "run_id": run_id}
    if not approved:
        return reject_version(settings, pipeline, version, **by)
    return promote_version(settings, pipeline, version, outdated_verdict=outdated_verdict, **by)


def judge_version(
    settings: Settings, pipeline: Trainable, *, version: int | None = None, actor: str, run_id: str = ""
) -> GateVerdict:
    """Have the gate judge a registered version, again if its verdict is outdated; nothing is trained.

    Raises:
        NotFoundError: No version waits, the version does not exist, or its training table is gone.
        CheckError: A person rejected it or rolled it back, or its artifact, or the champion's, was changed.
    """
    recover_interrupted(settings, pipeline)
    version = _newest_waiting(settings, pipeline) if version is None else version
    gate = model_version(settings, pipeline, version).gate
    if gate in (REJECTED, ROLLED_BACK):
        raise CheckError(
            f"Model {pipeline.name!r} version {version} was {gate.replace('_', ' ')} by a person, which is final.",
            remedy=f"`forecache promote {pipeline.name} {version}` brings back one that was rolled back.",
        )
    return run_gate(settings, pipeline, version, actor=actor, run_id=run_id)


def _newest_waiting(settings: Settings, pipeline: Trainable) -> int:
    waiting = [found.version for found in list_models(settings, pipeline) if found.gate == WAITING]
    if not waiting:
        raise NotFoundError(
            f"No version of model {pipeline.name!r} waits for approval.",
            remedy=f"`forecache models {pipeline.name}` lists them.",
        )
    return waiting[0]
