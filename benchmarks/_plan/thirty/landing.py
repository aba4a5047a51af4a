"""The landing files of the demo."""

from dagster_project.landing import landing_days as landing_days
