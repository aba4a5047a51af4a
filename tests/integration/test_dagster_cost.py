"""The asset `cost` in a run of its job: the same figures as `forecache cost`, as metadata."""

from datetime import date

import dagster as dg

from forecache.base.settings import Settings
from forecache.lake.ledger import StageRecord, append_records
from forecache.plugins.cost.orchestration import build_cost
from resources.settings_resource import SettingsResource


def test_a_run_keeps_what_everything_cost_as_metadata(settings: Settings) -> None:
    details = {"cost": {"core_s": 3600.0}}
    append_records(settings, [StageRecord("score", "churn", date(2026, 1, 1), "i", "", -1, 1000, 900.0, details)])
    resource = SettingsResource(home=str(settings.home_path), project=settings.project)
    done = dg.materialize([build_cost(["team@example.com"])], resources={"settings": resource})
    assert done.success
    [found] = done.asset_materializations_for_node("cost")
    assert "| stage | churn | score | 1 | core-hours |" in str(found.metadata["lines"].value)
    assert "cpu" in str(found.metadata["missing_prices"].value)


def test_a_project_that_has_not_run_yet_is_said_by_the_run(settings: Settings) -> None:
    resource = SettingsResource(home=str(settings.home_path), project=settings.project)
    done = dg.materialize([build_cost(["team@example.com"])], resources={"settings": resource}, raise_on_error=False)
    assert not done.success
    [failed] = done.get_step_failure_events()
    assert "No stage has run yet" in str(failed.event_specific_data)
