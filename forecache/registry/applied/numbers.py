"""Version numbers of models that no registry numbers: functions, expressions, models of a run."""

from collections.abc import Mapping
from typing import Any

from forecache.lake.ledger import StageRecord, all_records, record
from forecache.settings import Settings

_STAGE = "model"


def met_models(settings: Settings, subject: str) -> dict[int, StageRecord]:
    """The recorded models of a pipeline by number, from 1; `inputs` of a row identifies the model."""
    first: dict[str, StageRecord] = {}
    for row in all_records(settings, _STAGE, subject):
        first.setdefault(row.inputs, row)
    return dict(enumerate(first.values(), start=1))


def number_of(settings: Settings, subject: str, identity: str, details: Mapping[str, Any], *, run_id: str) -> int:
    """The model's version number; records the model under the next number if it is new.

    The number is the position among the ledger's rows about the pipeline's models. Rows are only appended, so two
    machines that use a new model at once agree on its number.
    """
    for _ in range(2):  # look, record, look again
        for number, row in met_models(settings, subject).items():
            if row.inputs == identity:
                return number
        record(settings, [StageRecord(_STAGE, subject, None, identity, "", -1, 0, 0.0, details, run_id=run_id)])
    raise AssertionError(f"The ledger does not show {identity!r}, which was recorded.")
