"""Make a plan: walk through the run, and estimate each stage that it finds."""

from dataclasses import replace
from datetime import datetime, timezone

from forecache.base.settings import Settings
from forecache.base.steps import only_look
from forecache.lake.ingest.ingest import STAGE as INGEST
from forecache.plugins.plan.estimates import Estimator
from forecache.plugins.plan.plan import Plan, PlannedStage, price_of
from forecache.plugins.plan.walk import Walk
from forecache.runs import RunRequest


def plan_run(settings: Settings, *requests: RunRequest) -> Plan:
    """Plan what a run would do, without writing anything.

    Several requests are runs one after the other, which differ in their declarations and dates only.

    Raises:
        NotFoundError: A declaration is not there.
        SettingsError: The project cannot be loaded.
    """
    walk = Walk(settings, rebuild=any(request.rebuild for request in requests))
    with only_look():
        walk.follow(requests)
        estimator = Estimator(settings, sorted({each.subject for each in walk.found}))
    stages = []
    for each in walk.found:
        has_run = estimator.has_run(each.stage, each.subject)
        rows = None if has_run and each.stage != INGEST else each.rows
        estimate = estimator.estimate(each.stage, each.subject, dates=len(each.dates), rows=rows)
        stages.append(PlannedStage(each.stage, each.subject, each.dates, each.causes, each.condition, estimate))
    plan = Plan(tuple(stages), tuple(walk.notes), walk.blocked, datetime.now(timezone.utc))
    return replace(plan, prices=price_of(settings, plan.core_s))
