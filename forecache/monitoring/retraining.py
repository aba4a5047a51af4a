"""Decides whether to train a pipeline again, from the monitoring table, the registry and the stage ledger."""

from datetime import date, datetime, timezone

from forecache.errors import SettingsError
from forecache.lake.ledger import last_record
from forecache.monitoring.decision import Decision, LastTraining, decide
from forecache.monitoring.table import measurements
from forecache.pipeline import Pipeline
from forecache.registry.versions.models import find_champion
from forecache.settings import Settings
from forecache.training.launch import STAGE as TRAIN


def retraining_decision(settings: Settings, pipeline: Pipeline, *, now: datetime | None = None) -> Decision:
    """Decide whether the pipeline has to be trained again now.

    Args:
        now: With a time zone; default: the clock.

    Raises:
        SettingsError: The pipeline declares no `retraining`.
    """
    if pipeline.retraining is None:
        raise SettingsError(
            f"Pipeline {pipeline.name!r} does not say when to train again.",
            remedy="Declare `retraining=Retraining(...)` in it.",
        )
    model, last = find_champion(settings, pipeline), last_training(settings, pipeline)
    figures = measurements(settings, pipeline.name, first=last.night if last else None)
    return decide(
        pipeline.retraining,
        # Without the figures of an earlier metric of the gate, which are still in the table.
        [row for row in figures if row.kind != "performance" or row.name == pipeline.trained_gate.metric],
        champion=model.version if model else None,
        last=last,
        now=now or datetime.now(timezone.utc),
    )


def last_training(settings: Settings, pipeline: Pipeline) -> LastTraining | None:
    """Read the last training from the stage ledger; None if there was none."""
    row = last_record(settings, TRAIN, pipeline.name)
    if row is None:
        return None
    assert row.recorded_at is not None
    return LastTraining(date.fromisoformat(row.details["night"]), row.recorded_at)
