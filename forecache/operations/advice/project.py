"""All advice about a project, the largest saving first."""

from forecache.lake.ledger import records_since
from forecache.operations.advice.advice import Advice, largest_first
from forecache.operations.advice.batch import batch_advice
from forecache.operations.advice.readers import reader_advice
from forecache.operations.advice.scoring import scoring_advice
from forecache.operations.advice.trainings import training_advice
from forecache.operations.cost.stages import period
from forecache.pipeline.loading import read_project
from forecache.settings import Settings


def project_advice(settings: Settings, *, days: int) -> list[Advice]:
    """All advice about a project from the measurements of the last days, the largest saving first.

    Raises:
        NotFoundError: No stage has run yet.
        UnavailableError: Prometheus does not answer.
    """
    found = period(settings, days)
    records = records_since(settings, found.since)
    return largest_first(
        [
            *training_advice(settings, records, found.days),
            *scoring_advice(settings, records, found.days),
            *reader_advice(settings, found.days),
            *batch_advice(settings, read_project(settings), found.days),
        ]
    )
