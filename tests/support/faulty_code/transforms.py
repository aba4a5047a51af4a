"""A transform that fails in the way that its request, or the file that FAULT_FILE names, says."""

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np

from forecache.declare.realtime.request_rows import Rows


def rank(rows: Rows) -> np.ndarray:
    """[spend, popularity, price, whether the product is known]."""
    _fail(rows["fault"][0] or _of_file())
    spend, popularity = rows.feature("household", "spend_28d"), rows.feature("product", "popularity")
    return np.column_stack([spend, popularity, rows["price"], rows.found("product")])


def _of_file() -> str:
    try:
        return Path(os.environ["FAULT_FILE"]).read_text()
    except (KeyError, FileNotFoundError):
        return ""


def _fail(fault: str) -> None:
    if fault.startswith("sleep"):
        time.sleep(float(fault.removeprefix("sleep")) / 1000)
    elif fault == "spin":
        while True:
            pass
    elif fault == "native":  # holds the interpreter's lock, as a library may
        ctypes.PyDLL(None).sleep(3600)
    elif fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif fault == "raise":
        raise ValueError("as asked")
