"""What a materialization of a rollout says."""

from forecache.plugins.rollouts.orchestration import rollout_metadata
from forecache.realtime.release.rollout_state import GuardResult, RolloutState, RolloutStep


def test_figures_are_for_people() -> None:
    since = "2026-03-01T08:00:00+00:00"
    late = GuardResult("late", 0.0, 0.0, -0.004, 0.004, 0.01, False)
    shown = {"candidate_total_ms": 0.598, "newest_request_at": 1_772_352_003.5}
    step = RolloutStep("shadow", 0.1, since, requests=(1380, 1380), compared=(late,), shown=shown)
    figures = rollout_metadata(RolloutState("search", 2, 1, "shadow", 0.1, since, {}, steps=(step,)))["figures"].value
    assert "| candidate_total_ms | 0.598 |" in figures
    assert "| newest_request_at | 2026-03-01 08:00:03 |" in figures
