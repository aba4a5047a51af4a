"""OpenLineage events of the stages of a run: the facts that each recorded, or its failure."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timezone
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings

_STAGES = {
    "build_features": "features",
    "build_view": "features",
    "build_joined": "features",
    "build_training_set": "training_set",
    "build_examples": "training_set",
    "score_nights": "score",
    "publish_newest_night": "publish",
    "publish_night": "publish",
    "write_drift_report": "drift_report",
    "monitor": "monitoring",
    "check_parity": "parity",
    "register_model": "register",
    "release_model": "release",
}
"""Name of the stage by name of the function, if the two differ."""


@contextmanager
def send_lineage(
    settings: Settings,
    stage: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    run_id: str,
    job_name: str,
    nights: Sequence[date],
) -> Iterator[None]:
    """Send lineage events for the facts that the stage records, or for its failure, if a receiver is set."""
    if not (settings.openlineage_url or settings.openlineage_file):
        yield
        return
    from forecache.plugins.lineage.emit import emit_failure, emit_new
    from forecache.plugins.lineage.facts import Fact

    started, names = datetime.now(timezone.utc), {run_id: job_name}
    try:
        yield
    except Exception as error:
        ended = datetime.now(timezone.utc)
        name = _STAGES.get(stage.__name__, stage.__name__)
        subject = next((each.name for each in arguments if isinstance(getattr(each, "name", None), str)), "")
        fact = Fact(
            source="failure",
            position=0,
            identity=f"{run_id} {name} {subject} {started.isoformat()}",
            stage=name,
            subject=subject,
            nights=list(nights),
            run_id=run_id,
            code_version="",
            ended_at=ended,
            seconds=(ended - started).total_seconds(),
            error=str(error) if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}",
        )
        emit_failure(settings, fact, job_names=names)
        raise
    finally:
        # A stage that failed may have done some of its dates.
        emit_new(settings, job_names=names)
