"""What a person sees while the benchmark runs: one line a step, with the time since the start."""

import sys
import time

_STARTED = time.monotonic()


def say(message: str) -> None:
    seconds = time.monotonic() - _STARTED
    print(f"[{int(seconds) // 60:02d}:{int(seconds) % 60:02d}] {message}", file=sys.stderr, flush=True)
