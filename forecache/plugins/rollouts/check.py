"""Check of `forecache doctor`: whether the declared rollouts compare what requests led to."""

from forecache.base.settings import Settings
from forecache.cli.checks import Finding


def check_rollouts(settings: Settings) -> Finding:
    """Check that each declared rollout compares what requests led to; without that, no guard sees worse answers."""
    from forecache.declare.loading import read_project
    from forecache.operations.start_rollout import blind_spot_warning

    declared = [each for each in read_project(settings).realtime.values() if each.rollout is not None]
    if not declared:
        return Finding("rollouts", "ok", "none is declared")
    blind = [spot for each in declared if (spot := blind_spot_warning(each))]
    if blind:
        remedy = 'Declare `Rollout(outcome=Outcome("a table", "its column"))`, if the outcome is known soon enough.'
        return Finding("rollouts", "warn", " ".join(blind), remedy)
    return Finding("rollouts", "ok", f"compare outcomes: {', '.join(each.name for each in declared)}")
