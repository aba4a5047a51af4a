"""Thirty pipelines on one feature view."""

from dataclasses import replace

from dagster_project.pipelines.churn import churn
from dagster_project.pipelines.spend import spend
from forecache.declare import Drift

PIPELINES = 30
OTHERS = [replace(churn, name=f"other{number:02}", drift=Drift(report_rows=0)) for number in range(PIPELINES - 2)]
globals().update({each.name: each for each in (churn, spend, *OTHERS)})
