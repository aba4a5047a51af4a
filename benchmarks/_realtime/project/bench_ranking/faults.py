"""A model that fails in a way that a file names, for as long as it names it."""

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

SWITCH = "BENCH_FAULT"
"""Names the file; what it holds is "", "sleep", "spin", "crash" or "stop"."""


def model(features: Mapping[str, Any]) -> Any:
    """The sum of some features, float64 [n]."""
    try:
        with open(os.environ[SWITCH]) as file:
            fault = file.read()
    except (KeyError, FileNotFoundError):
        fault = ""
    if fault == "sleep":
        time.sleep(0.04)
    elif fault == "spin":
        while True:
            pass
    elif fault == "crash":
        os.abort()
    elif fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    return features["h0"] + features["p00"] + features["p01"]
