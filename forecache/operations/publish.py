"""Publishing what may be: a night that passed its checks as it is now, made by a model that nobody rolled back.

Both are looked at under the publisher's lock, at the Delta version that is published: neither a rollback nor another
scoring of the night comes between the look and the publish.
"""

from datetime import date

from forecache.errors import CheckError, ConflictError
from forecache.operations.rollback import settle
from forecache.pipeline import Pipeline
from forecache.quality.verdicts import refuse_failed, require_passed
from forecache.registry.promotions import promotions, rolled_back, unfinished
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings
from forecache.store.encoding.prediction_source import NightSource
from forecache.store.publishing.publish import publish


def publish_night(
    settings: Settings,
    pipeline: Pipeline,
    *,
    night: date | None = None,
    full: bool = False,
    unchecked: bool = False,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """`forecache.store.publish` of a night that was checked as it is, by a model that was not rolled back.

    Args:
        unchecked: Publish also a night that was never checked, or not since its rows changed; never one whose last
            check failed.

    Raises:
        CheckError: It was not, or its model was; and what `publish` raises.
        ConflictError: A rollback was cut short a moment ago.
    """

    def approve(source: NightSource) -> None:
        _refuse_rolled_back(settings, pipeline, source)
        if unchecked:
            refuse_failed(settings, pipeline.prediction_table, source.night)
        else:
            table, blocking = pipeline.prediction_table, pipeline.drift.blocking
            require_passed(settings, table, source.night, state=source.digest, drift=blocking)

    settle(settings, pipeline, progress=progress)
    return publish(settings, pipeline, night=night, full=full, run_id=run_id, progress=progress, approve=approve)


def _refuse_rolled_back(settings: Settings, pipeline: Pipeline, source: NightSource) -> None:
    entries = promotions(settings, pipeline.name)
    cut_short = unfinished(entries)
    if cut_short is not None:
        raise ConflictError(
            f"A {cut_short.action} of {pipeline.name} was cut short a moment ago.",
            remedy="Publish again: that finishes it first.",
        )
    left = rolled_back(entries)
    model = source.provenance.model_version if left else None
    if model in left:
        raise CheckError(
            f"The predictions of {pipeline.name} for {source.night} were made by model {model}, which was rolled back.",
            remedy=f"`forecache run {pipeline.name} --night {source.night}` scores them with the champion first.",
        )
