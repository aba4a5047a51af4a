"""Rollout: the steps by which a new release of a real-time model takes over, and its figures from the request log.

Each run counts the answers that were logged since the last run; then the rollout waits, takes its next step, or rolls
the release back. `forecache release rollouts` does the same without Dagster; any number of both may run.
"""

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import dagster as dg

from assets.metadata import markdown_table, place_in_graph
from assets.realtime import released_name
from assets.stage import explain_errors
from forecache.base.settings import Settings
from forecache.declare import Realtime
from forecache.declare.project import Project
from forecache.kit.process.wakes import ROLLOUT_STEPS
from forecache.realtime.release.rollout_state import RolloutState
from jobs.schedules import build_asset_job
from resources.dagster_internals import NOT_FINISHED_STATUSES
from resources.settings_resource import SettingsResource


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """The asset, job and sensor of the rollouts of each real-time model that declares one."""
    rolled_out = [realtime for realtime in project.realtime.values() if realtime.rollout is not None]
    return dg.Definitions.merge(*map(define_rollout, rolled_out))


def define_rollout(realtime: Realtime) -> dg.Definitions:
    """The job advances a rollout; a sensor starts it once a minute while a rollout is running."""
    # Dagster makes an op of each asset and a graph of each job, whose names must differ.
    about = f"Look once at the rollout of {realtime.name}: wait, go on, or return its release."
    job = build_asset_job(f"{realtime.name}_rollout", about, [rollout_name(realtime)])
    sensor = build_rollout_sensor(realtime, job.name)
    return dg.Definitions(assets=[build_rollout(realtime)], jobs=[job], sensors=[sensor])


def rollout_name(realtime: Realtime) -> str:
    return f"rollout_{realtime.name}"


def build_rollout(realtime: Realtime) -> dg.AssetsDefinition:
    """The rollout of a real-time model's newest release."""

    @dg.asset(
        name=rollout_name(realtime),
        deps=[released_name(realtime)],
        description=__doc__,
        **place_in_graph(realtime, stage="serving"),
        kinds={"deltalake"},
    )
    @explain_errors
    def report_rollout(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.plugins.rollouts.controller import advance_rollout

        found = advance_rollout(settings.load(), realtime.name)
        if found is None:
            context.log.info("There is no rollout yet.")
            return
        yield dg.MaterializeResult(metadata=rollout_metadata(found.state))

    return report_rollout


def rollout_metadata(state: RolloutState) -> dict[str, Any]:
    """Metadata of a rollout: its state, its steps, and the figures of each guard of the last judged step."""
    steps = [
        (step.stage, f"{step.share:.0%}", step.since[:16].replace("T", " "), *step.requests, step.verdict, step.why)
        for step in state.steps
    ]
    judged = next((step for step in reversed(state.steps) if step.compared), state.step)
    guards = [
        (
            each.guard, each.candidate, each.current, "" if each.low is None else each.low,
            "" if each.high is None else each.high, each.tolerated, each.harmful,
        )
        for each in judged.compared
    ]  # fmt: skip
    return {
        "release": state.release,
        "instead_of": state.current,
        **{name: getattr(state, name) for name in ("stage", "share", "paused", "why")},
        "steps": markdown_table(("step", "share", "since (UTC)", "current", "other variant", "verdict", "why"), steps),
        "guards": markdown_table(
            ("guard", "other variant", "current", "worse by at least", "at most", "tolerated", "harm"), guards
        ),
        "figures": markdown_table(
            ("figure", "value"), [(name, _format_figure(name, value)) for name, value in judged.shown.items()]
        ),
    }


def _format_figure(figure: str, value: float) -> object:
    """A figure for people; Unix times are written as times."""
    return f"{datetime.fromtimestamp(value, timezone.utc):%Y-%m-%d %H:%M:%S}" if figure.endswith("_at") else value


def build_rollout_sensor(realtime: Realtime, job: str) -> dg.SensorDefinition:
    """The rollout sensor; it is on by default, because a rollout that is not advanced never ends."""

    @dg.sensor(
        name=f"{realtime.name}_rollout_under_way",
        job_name=job,
        minimum_interval_seconds=int(ROLLOUT_STEPS.every_s),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks at the rollout of {realtime.name} once a minute while one is under way.",
    )
    def request_look(context: dg.SensorEvaluationContext, settings: SettingsResource) -> dg.RunRequest | dg.SkipReason:
        from forecache.plugins.rollouts.controller import running_rollouts

        if not running_rollouts(settings.load(), [realtime.name]):
            return dg.SkipReason("No rollout is under way.")
        running = dg.RunsFilter(job_name=job, statuses=NOT_FINISHED_STATUSES)
        if context.instance.get_runs(filters=running, limit=1):
            return dg.SkipReason("A look is under way.")
        return dg.RunRequest()

    return request_look
