"""Version numbers of models that no registry numbers: functions, expressions, models of a run.

The ledger has a row for each model that a pipeline has met, and its number is its place among them. Rows are only
appended, so that two machines that meet a new model at once agree on its number.
"""

from collections.abc import Mapping
from typing import Any

from forecache.lake.ledger import StageRecord, all_records, record
from forecache.settings import Settings

STAGE = "model"


def met_models(settings: Settings, subject: str) -> dict[int, StageRecord]:
    """The models that a pipeline has met, by number, from 1; `inputs` is what a model is."""
    first: dict[str, StageRecord] = {}
    for row in all_records(settings, STAGE, subject):
        first.setdefault(row.inputs, row)
    return dict(enumerate(first.values(), start=1))


def number_of(settings: Settings, subject: str, identity: str, details: Mapping[str, Any], *, run_id: str) -> int:
    """The number of a model, which is recorded where it is new."""
    for _ in range(2):  # looked for, recorded, looked for again
        for number, row in met_models(settings, subject).items():
            if row.inputs == identity:
                return number
        record(settings, [StageRecord(STAGE, subject, None, identity, "", -1, 0, 0.0, details, run_id=run_id)])
    raise AssertionError(f"The ledger does not show {identity!r}, which was recorded.")
