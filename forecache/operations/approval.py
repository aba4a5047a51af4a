"""Approval: a person decides about the model that passed the gate and waits, or has it judged again first."""

from forecache.errors import CheckError, NotFoundError
from forecache.operations.rollback import settle
from forecache.pipeline import Pipeline
from forecache.registry.gate.gate import run_gate
from forecache.registry.gate.verdicts import Verdict
from forecache.registry.moves import promote, reject
from forecache.registry.promotions import Promotion
from forecache.registry.versions.models import REJECTED, ROLLED_BACK, WAITING, list_models, model_version
from forecache.settings import Settings


def approve(
    settings: Settings,
    pipeline: Pipeline,
    *,
    version: int | None = None,
    approved: bool = True,
    actor: str,
    reason: str = "",
    run_id: str = "",
    outdated_verdict: bool = False,
) -> Promotion:
    """Make the waiting version the champion, or reject it; returns the ledger's row.

    Args:
        version: Which, None: the newest that waits.
        outdated_verdict: Approve although the verdict does not hold any more.

    Raises:
        NotFoundError: None waits, or there is no such version.
        ConflictError: That version is the champion already, or does not wait.
        CheckError: It did not pass the gate, its verdict does not hold any more, or its artifact was changed.
    """
    settle(settings, pipeline)
    if version is None:
        version = _newest_waiting(settings, pipeline)
    if not approved:
        return reject(settings, pipeline, version, actor=actor, reason=reason, run_id=run_id)
    return promote(
        settings,
        pipeline,
        version,
        actor=actor,
        reason=reason,
        run_id=run_id,
        outdated_verdict=outdated_verdict,
    )


def judge(
    settings: Settings, pipeline: Pipeline, *, version: int | None = None, actor: str, run_id: str = ""
) -> Verdict:
    """Have the gate judge a registered version, again where its verdict does not hold any more; nothing is trained.

    Args:
        version: Which, None: the newest that waits for approval.

    Raises:
        NotFoundError: None waits, there is no such version, or its training table is gone.
        CheckError: A person rejected it or rolled back from it, or its artifact, or the champion's, was changed.
    """
    settle(settings, pipeline)
    if version is None:
        version = _newest_waiting(settings, pipeline)
    gate = model_version(settings, pipeline, version).gate
    if gate in (REJECTED, ROLLED_BACK):
        raise CheckError(
            f"Model {pipeline.name!r} version {version} was {gate.replace('_', ' ')} by a person, which stands.",
            remedy=f"`forecache promote {pipeline.name} {version}` brings back one that was rolled back.",
        )
    return run_gate(settings, pipeline, version, actor=actor, run_id=run_id)


def _newest_waiting(settings: Settings, pipeline: Pipeline) -> int:
    waiting = [found.version for found in list_models(settings, pipeline) if found.gate == WAITING]
    if not waiting:
        raise NotFoundError(
            f"No version of model {pipeline.name!r} waits for approval.",
            remedy=f"`forecache models {pipeline.name}` lists them.",
        )
    return waiting[0]
