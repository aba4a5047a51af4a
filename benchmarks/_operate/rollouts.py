"""Section rollout: requests until a release that is 2 percent worse is returned, and how often an equal one is."""

import time
from dataclasses import asdict
from typing import Any

from _store.progress import say

from _operate.sizes import Sizes

HARM = 0.02


def measure(sizes: Sizes) -> dict[str, Any]:
    """Simulated by the code that judges real rollouts: a worse release with a margin and without, and equal ones."""
    from forecache.operations.rollout.simulate import Traffic, worse
    from forecache.operations.rollout.simulate_keys import equal
    from forecache.pipeline import Outcome, Rollout

    traffic = Traffic()
    began = time.perf_counter()
    with_margin = Rollout(outcome=Outcome("orders", "bought", margin=HARM))
    held = worse(traffic, HARM, rollout=with_margin, runs=sizes.rollouts)
    default = worse(traffic, HARM, runs=sizes.rollouts)
    alike = equal(traffic, runs=sizes.returns)
    say(f"rollout: returned after {held.quantile(0.5):,.0f} requests; {alike.wrong} of {alike.runs} equal stopped")
    return {
        "traffic": asdict(traffic), "harm": HARM, "rollouts": sizes.rollouts, "found_share": held.share,
        "requests": {str(share): min(held.quantile(share), 1e12) for share in (0.1, 0.5, 0.9)},
        "found_share_by_default": default.share, "equal": alike.runs, "returned": alike.returned,
        "paused": alike.paused, "held": alike.held, "seconds": time.perf_counter() - began,
    }  # fmt: skip
