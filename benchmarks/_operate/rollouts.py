"""Section rollout: requests until a release that is 2 percent worse is returned, and how often an equal one is."""

import time
from dataclasses import asdict
from typing import Any

from _store.progress import say

from _operate.sizes import Sizes

HARM = 0.02


def measure(sizes: Sizes) -> dict[str, Any]:
    """Simulated by the code that judges real rollouts: a worse release with a margin and without, and equal ones."""
    from forecache.declare import Outcome, Rollout
    from forecache.plugins.rollouts.simulate_command import simulate_equal_release
    from forecache.plugins.rollouts.simulate_worse import SimulatedTraffic, simulate_worse_release

    traffic = SimulatedTraffic()
    began = time.perf_counter()
    with_margin = Rollout(outcome=Outcome("orders", "bought", margin=HARM))
    held = simulate_worse_release(traffic, HARM, rollout=with_margin, runs=sizes.rollouts)
    default = simulate_worse_release(traffic, HARM, runs=sizes.rollouts)
    alike = simulate_equal_release(traffic, runs=sizes.returns)
    say(
        f"rollout: returned after {held.quantile(0.5):,.0f} requests; {alike.num_stopped} of {alike.runs} equal stopped"
    )
    return {
        "traffic": asdict(traffic), "harm": HARM, "rollouts": sizes.rollouts, "found_share": held.returned_share,
        "requests": {str(share): min(held.quantile(share), 1e12) for share in (0.1, 0.5, 0.9)},
        "found_share_by_default": default.returned_share, "equal": alike.runs, "returned": alike.returned,
        "paused": alike.paused, "held": alike.held, "seconds": time.perf_counter() - began,
    }  # fmt: skip
