"""Publishing past a rollback: one that was cut short is finished first, and a model rolled back publishes nothing."""

from datetime import date

from forecache.errors import CheckError
from forecache.lake.ledger import last_record
from forecache.operations.rollback import settle
from forecache.pipeline import Pipeline
from forecache.registry.promotions import promotions, rolled_back
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings
from forecache.store.publishing import publish
from forecache.store.source import open_night


def publish_night(
    settings: Settings,
    pipeline: Pipeline,
    *,
    night: date | None = None,
    full: bool = False,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """`forecache.store.publish`, unless the model that made the night's predictions was rolled back.

    Raises:
        CheckError: It was; and what `publish` raises.
    """
    settle(settings, pipeline, progress=progress)
    left = rolled_back(promotions(settings, pipeline.name))
    if left:
        chosen = night or open_night(settings, pipeline, None).night
        scored = last_record(settings, "score", pipeline.name, chosen)
        model = scored.details.get("model_version") if scored else None
        if model in left:
            raise CheckError(
                f"The predictions of {pipeline.name} for {chosen} were made by model {model}, which was rolled back.",
                remedy=f"`forecache run {pipeline.name} --night {chosen}` scores them with the champion first.",
            )
    return publish(settings, pipeline, night=night, full=full, run_id=run_id, progress=progress)
