"""Approval: a person decides about the model that passed the gate and waits."""

from forecache.errors import NotFoundError
from forecache.operations.rollback import settle
from forecache.pipeline import Pipeline
from forecache.registry.models import list_models
from forecache.registry.moves import WAITING, promote, reject
from forecache.registry.promotions import Promotion
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
) -> Promotion:
    """Make the waiting version the champion, or reject it; returns the ledger's row.

    Args:
        version: Which, None: the newest that waits.

    Raises:
        NotFoundError: None waits, or there is no such version.
        ConflictError: That version is the champion already, or does not wait.
        CheckError: It did not pass the gate, or its artifact was changed.
    """
    settle(settings, pipeline)
    if version is None:
        waiting = [found.version for found in list_models(settings, pipeline) if found.gate == WAITING]
        if not waiting:
            raise NotFoundError(
                f"No version of model {pipeline.name!r} waits for approval.",
                remedy=f"`forecache models {pipeline.name}` lists them.",
            )
        version = waiting[0]
    decide = promote if approved else reject
    return decide(settings, pipeline, version, actor=actor, reason=reason, run_id=run_id)
