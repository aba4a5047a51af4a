"""What the record of a fit says of the estimator, of the process that fitted it, and of what that took."""

import os
import platform
import resource
import sys
import time
from typing import Any

from forecache.training.estimator.libraries import Fitted
from forecache.training.estimator.matrix import machine_memory_bytes


def described(estimator: Any, fitted: Fitted) -> dict[str, Any]:
    plain = {name: value for name, value in estimator.get_params().items() if isinstance(value, (int, float, str))}
    kind = type(estimator)
    return {"library": fitted.library, "class": f"{kind.__module__}.{kind.__qualname__}", "parameters": plain}


def environment() -> dict[str, Any]:
    return {
        "workers": 1,
        "device": "cpu",
        "device_name": "cpu",
        "python": platform.python_version(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }


def usage(started: float) -> dict[str, Any]:
    """The figures of `training.worker.reporting.usage`; an estimator reads all data first, so it never waits for it."""
    wall, threads = time.perf_counter() - started, environment()["threads"]
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "attempt_s": wall,
        "cpu_share": time.process_time() / (wall * threads),
        "stall_share": 0.0,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "peak_device_memory_bytes": 0,
        "device_memory_bytes": 0,
        "machine_memory_bytes": machine_memory_bytes(),
    }
