"""A backfill that has used its budget still says which of its runs failed."""

from datetime import date

import pytest

from forecache.base.errors import CheckError, PipelinesFailedError
from forecache.base.results import no_progress
from forecache.base.settings import Settings
from forecache.lake.ledger import StageRecord, append_records
from forecache.operations.backfill import BackfillRun, BudgetSpentError, run_backfill

DAYS = [date(2026, 1, day) for day in (1, 2, 3)]


def test_a_run_that_failed_before_the_budget_was_used_is_named(settings: Settings) -> None:
    done = []

    def run(each: BackfillRun) -> None:
        done.append(each.nights[0])
        record = StageRecord("score", "x", done[-1], "", "t", 0, 1, 1.0, {"cost": {"core_s": 2.0}})
        append_records(settings, [record])
        if done[-1] == DAYS[0]:
            raise CheckError("its rows are bad")

    runs = [BackfillRun(("x",), (day, day)) for day in DAYS]
    with pytest.raises(PipelinesFailedError, match="x for 2026-01-01: its rows are bad; .*Stopped before x for") as met:
        run_backfill(settings, runs, run, max_core_hours=3 / 3600, progress=no_progress)
    assert done == DAYS[:2]
    assert isinstance(met.value.failures["x for 2026-01-03"], BudgetSpentError)
    with pytest.raises(BudgetSpentError, match="1 of 2 runs are done"):
        run_backfill(settings, runs[1:], run, max_core_hours=1 / 3600, progress=no_progress)
