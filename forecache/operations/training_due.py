"""Decide whether a model is to be trained now: by its champion, its schedule, and the figures about it."""

from dataclasses import dataclass
from datetime import date, datetime, timezone

from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.declare import Pipeline, Realtime, Trainable
from forecache.declare.schedule import NEVER, read_cron
from forecache.lake.ledger import last_record
from forecache.models.registry.model_versions import find_champion
from forecache.models.training.launch import STAGE as TRAIN


@dataclass(frozen=True)
class LastTraining:
    """As-of date and end of the last training."""

    night: date
    ended_at: datetime


def last_training(settings: Settings, pipeline: Trainable) -> LastTraining | None:
    """Read the last training from the stage ledger; None if there was none."""
    row = last_record(settings, TRAIN, pipeline.name)
    if row is None:
        return None
    assert row.recorded_at is not None
    return LastTraining(date.fromisoformat(row.details["as_of"]), row.recorded_at)


def is_training_due(settings: Settings, pipeline: Pipeline | Realtime, *, now: datetime | None = None) -> bool:
    """True without a champion, past a training time of the schedule, or if figures about the champion ask for it."""
    now, last, schedule = now or datetime.now(timezone.utc), last_training(settings, pipeline), pipeline.schedule
    if last is None or find_champion(settings, pipeline) is None:
        return True
    if schedule.training != NEVER:
        times = read_cron("`Schedule`", "training", schedule.training)
        if last.ended_at < next(times.run_moments(schedule.zone, now, backwards=True)):
            return True
    return any(asks_for_training(settings, pipeline, now=now) for asks_for_training in find_hooks("asks_for_training"))
