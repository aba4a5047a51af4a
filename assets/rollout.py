"""Rollout: the steps by which a new release of a real-time model takes over, and its figures from the request log.

Each run counts the answers that were logged since the last run; then the rollout waits, takes its next step, or rolls
the release back. `forecache rollouts` does the same without Dagster; any number of both may run.
"""

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import dagster as dg

from assets.metadata import markdown_table, owners_of
from assets.released import released_name
from assets.stage import explain_errors
from forecache.base.plugins import load_hook
from forecache.declare import Realtime
from forecache.realtime.release.rollout_state import RolloutState
from resources.settings import SettingsResource


def rollout_name(realtime: Realtime) -> str:
    return f"rollout_{realtime.name}"


def build_rollout(realtime: Realtime) -> dg.AssetsDefinition:
    """The rollout of a real-time model's newest release."""

    @dg.asset(
        name=rollout_name(realtime),
        deps=[released_name(realtime)],
        description=__doc__,
        group_name="serving",
        kinds={"deltalake"},
        owners=owners_of(realtime),
    )
    @explain_errors
    def report_rollout(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        found = load_hook("rollouts", "advance_rollout")(settings.load(), realtime.name)
        if found is None:
            context.log.info("There is no rollout yet.")
            return
        yield dg.MaterializeResult(metadata=rollout_metadata(found.state))

    return report_rollout


def rollout_metadata(state: RolloutState) -> dict[str, Any]:
    """Metadata of a rollout: its state, its steps, and the figures of each guard of the last judged step."""
    steps = [
        (step.stage, step.share, step.since[:19], *step.requests, step.verdict, step.why) for step in state.steps
    ]  # fmt: skip
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
        "stage": state.stage,
        "share": state.share,
        "paused": state.paused,
        "why": state.why,
        "steps": markdown_table(("step", "share", "since", "current", "other arm", "verdict", "why"), steps),
        "guards": markdown_table(
            ("guard", "other arm", "current", "worse by at least", "at most", "tolerated", "harm"), guards
        ),
        "figures": markdown_table(
            ("figure", "value"), [(name, _format_figure(name, value)) for name, value in judged.shown.items()]
        ),
    }


def _format_figure(figure: str, value: float) -> object:
    """A figure for people; Unix times are written as times."""
    return f"{datetime.fromtimestamp(value, timezone.utc):%Y-%m-%d %H:%M:%S}" if figure.endswith("_at") else value
