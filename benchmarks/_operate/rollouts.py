"""Section rollout: requests until a release that is 2 percent worse is stopped, and how often an equal one returns."""

import time
from dataclasses import asdict
from typing import Any

from _store.progress import say

from _operate.sizes import Sizes

HARM = 0.02


def measure(sizes: Sizes) -> dict[str, Any]:
    """Simulated by the code that judges real rollouts."""
    from forecache.operations.rollout.simulate import Traffic, equal, stopped

    traffic = Traffic()
    began = time.perf_counter()
    worse = stopped(traffic, HARM, runs=sizes.rollouts)
    alike = equal(traffic, runs=sizes.returns)
    say(f"rollout: stopped after {worse.quantile(0.5):,.0f} requests; {alike.returned} of {alike.runs} equal returned")
    return {
        "traffic": asdict(traffic), "harm": HARM, "rollouts": sizes.rollouts, "found_share": worse.share,
        "requests": {str(share): min(worse.quantile(share), 1e12) for share in (0.1, 0.5, 0.9)},
        "equal": alike.runs, "returned": alike.returned, "paused": alike.paused, "seconds": time.perf_counter() - began,
    }  # fmt: skip
