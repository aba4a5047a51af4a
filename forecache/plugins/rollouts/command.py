"""Rollouts of releases: the controller in a loop, changes by hand, and the tables of a rollout."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from forecache.base.errors import ConflictError, ForecacheError
from forecache.base.settings import Settings
from forecache.cli.base import Finding, command, settings
from forecache.cli.commands.release import ASSET
from forecache.cli.orchestrator import show_in_dagster
from forecache.cli.output import show, show_table, wants_json
from forecache.cli.resolve_names import released_models, require_model

if TYPE_CHECKING:
    from forecache.plugins.rollouts.controller import AdvanceResult
    from forecache.realtime.release.rollout_state import RolloutState


_NAME = click.argument("name", metavar="NAME")
_REASON = click.option("--reason", default="", help="Why; it is shown with the rollout.")
_EVERY = click.option(
    "--every", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="Seconds between two looks."
)


@command(
    "rollouts",
    examples="""
    forecache release rollouts
    forecache release rollouts search --once
    forecache release rollouts --every 60
    """,
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--once", is_flag=True, help="Look once at each, and end.")
@_EVERY
def rollouts(names: Sequence[str], once: bool, every: float) -> None:
    """Run the controller of rollouts: move them on, or return their releases, by what the request log says.

    It looks at the models NAME, by default at all.

    Any number of controllers may run, on any machine that writes the releases: one at a time looks at a model. Dagster
    does the same with a job for each model, `rollout_NAME`.
    """
    from forecache.plugins.rollouts.controller import running_rollouts

    current = settings()
    for name in names:
        require_model(current, name)
    while True:
        chosen = list(names) or released_models(current)
        under_way = running_rollouts(current, chosen)
        for name in under_way:
            try:
                look_once(current, name)
            except (ForecacheError, OSError) as error:
                if once:
                    raise
                # Go on with the other rollouts, and try this one again: a rollout must not depend on this process.
                click.echo(f"{name}: {error}", err=True)
        if once:
            if not under_way and not wants_json():
                click.echo("No rollout is under way.")
            return
        time.sleep(every)


def look_once(current: "Settings", name: str) -> "AdvanceResult | None":
    """Run the controller once for a rollout and show the result; None if another process runs it, or there is none."""
    from forecache.plugins.rollouts.controller import advance_rollout

    try:
        found = advance_rollout(current, name)
    except ConflictError as error:
        click.echo(f"{name}: {error.message}", err=True)
        return None
    if found is not None:
        show_look(current, found)
    return found


def show_look(current: "Settings", found: "AdvanceResult") -> None:
    """Show the controller's result, also in Dagster if the rollout has changed."""
    state = found.state
    if found.moved:
        shown = {"rollout": state.stage, "share": state.share, "release": state.release, "reason": state.why}
        show_in_dagster(current, f"{ASSET}{state.name}", shown)
    show(asdict(state), f"{state.name}: {headline(state)}")


def watch(current: "Settings", name: str, *, every_s: float) -> "RolloutState | None":
    """Run the controller for a rollout until it is over or paused; returns its last state."""
    from forecache.base.errors import UnreachableError

    while True:
        found = None
        try:
            found = look_once(current, name)
        except UnreachableError as error:
            click.echo(f"{name}: {error}", err=True)  # try again
        if found is not None and (found.state.is_over or found.state.paused):
            return found.state
        time.sleep(every_s)


def headline(state: "RolloutState") -> str:
    """A rollout in one line."""
    stage = {"aa": "A/A", "shadow": "shadow", "canary": "canary"}.get(state.stage, state.stage)
    share = f" at {state.share:g} of the keys" if not state.is_over else ""
    return f"release {state.release}, {stage}{share}{', paused' if state.paused else ''}. {state.why}"


def show_rollout(state: "RolloutState") -> None:
    """Print the steps of a rollout, and the guards' figures of the last step that was judged."""
    click.echo(f"\nRollout: {headline(state)}")
    rows = [
        (
            step.stage, f"{step.share:g}", step.since[:19], f"{step.requests[0]:,}", f"{step.requests[1]:,}",
            step.verdict, step.why,
        )
        for step in state.steps
    ]  # fmt: skip
    show_table(
        ("step", "share", "since", "current", "other variant", "verdict", "why"),
        rows,
        right=("current", "other variant"),
    )
    judged = next((step for step in reversed(state.steps) if step.compared), None)
    if judged is None:
        return
    click.echo(f"\nGuards of the step {judged.stage} at {judged.share:g}:")
    compared = [
        (
            each.guard, f"{each.candidate:.5g}", f"{each.current:.5g}",
            "" if each.low is None else f"{each.low:.3g} to {each.high:.3g}", f"{each.tolerated:.3g}",
            "harm" if each.harmful else "",
        )
        for each in judged.compared
    ]  # fmt: skip
    show_table(("guard", "other variant", "current", "worse by", "tolerated", ""), compared)
    figures = [(name, _format_figure(name, value)) for name, value in judged.shown.items()]
    show_table(("figure", "value"), figures, right=("value",))


def _format_figure(name: str, value: float) -> str:
    if name.endswith("_at"):
        return datetime.fromtimestamp(value, timezone.utc).isoformat(timespec="seconds")
    return f"{value:,.4g}"


def _move_by_hand(name: str, action: str, reason: str) -> None:
    from forecache.plugins.rollouts.controller import AdvanceResult, apply_manual_action

    current = settings()
    require_model(current, name)
    show_look(current, AdvanceResult(apply_manual_action(current, name, action, reason), moved=True))


@command("pause", examples="forecache release pause search --reason 'a sale today'")
@_NAME
@_REASON
def pause(name: str, reason: str) -> None:
    """Leave the rollout of NAME at its step: the candidate goes on answering its keys, and nothing is judged."""
    _move_by_hand(name, "pause", reason)


@command("resume", examples="forecache release resume search")
@_NAME
@_REASON
def resume(name: str, reason: str) -> None:
    """Go on with the rollout of NAME; its step is counted from now on."""
    _move_by_hand(name, "resume", reason)


@command("return", examples="forecache release return search --reason 'complaints'")
@_NAME
@_REASON
def return_(name: str, reason: str) -> None:
    """Return the candidate of NAME: the current release answers all, and the candidate is marked as bad."""
    _move_by_hand(name, "return", reason)


@command("finish", examples="forecache release finish search --reason 'an urgent fix'")
@_NAME
@_REASON
def finish(name: str, reason: str) -> None:
    """Let the candidate of NAME answer all requests now, whatever was proved of it."""
    _move_by_hand(name, "finish", reason)


def check_rollouts(settings: Settings) -> Finding:
    """Check that each declared rollout compares what requests led to; without that, no guard sees worse answers."""
    from forecache.declare.loading import read_project
    from forecache.plugins.rollouts.controller import blind_spot_warning

    declared = [each for each in read_project(settings).realtime.values() if each.rollout is not None]
    if not declared:
        return Finding("rollouts", "ok", "none is declared")
    blind = [spot for each in declared if (spot := blind_spot_warning(each))]
    if blind:
        remedy = 'Declare `Rollout(outcome=Outcome("a table", "its column"))`, if the outcome is known soon enough.'
        return Finding("rollouts", "warn", " ".join(blind), remedy)
    return Finding("rollouts", "ok", f"compare outcomes: {', '.join(each.name for each in declared)}")
