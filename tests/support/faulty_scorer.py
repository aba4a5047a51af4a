"""A scorer for model processes that fails in the way that a file of its folder, or the request itself, names."""

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np

from forecache.realtime.request.request_answer import LookupResult, ParsedRequest

ROWS, WIDTH = 50, 32
FAULT = "fault"
"""File in the folder."""
IMPORT_S = "FAULTY_IMPORT_S"
"""Variable of the environment: seconds that the import of this module takes in a process that is started with it."""
time.sleep(float(os.environ.get(IMPORT_S, "0")))


class FaultyScorer:
    """The score of a row is the sum of its features: exact, since they are small whole numbers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._leaked: list[bytearray] = []
        self.examples = [(request(rows), found(rows)) for rows in (1, 3, ROWS)]

    def features(self, request: ParsedRequest, found: LookupResult) -> np.ndarray:
        fault = request.columns["fault"][0] or self._fault()
        if fault == "transform":
            raise KeyError("no such field")
        self._fail(fault)
        return found.views["view"]

    def predict(self, features: np.ndarray) -> np.ndarray:
        if self._fault() == "predict":
            raise ValueError("the model is broken")
        if self._fault() == "shape":
            return np.zeros((len(features), 2), np.float32)
        if self._fault() == "nan":
            return np.full(len(features), np.nan, np.float32)
        scores = features.sum(axis=1)
        return scores - scores.max() if (self._folder / "listwise").exists() else scores

    def _fault(self) -> str:
        try:
            return (self._folder / FAULT).read_text()
        except FileNotFoundError:
            return ""

    def _fail(self, fault: str) -> None:
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
        elif fault == "leak":
            self._leaked.append(bytearray(b"x" * (1 << 20)))


def load(folder: Path) -> FaultyScorer:
    if (folder / "refuse").exists():
        raise ValueError("the model file is damaged")
    if (folder / "slow").exists():
        time.sleep(3600)
    return FaultyScorer(folder)


def request(rows: int = ROWS, fault: str = "") -> ParsedRequest:
    """With a fault of its own, which wins over that of the folder."""
    products = np.array([f"product {row}" for row in range(rows)], object)
    columns = {"fault": np.array([fault], object), "product": products, "price": np.arange(rows) / 7}
    return ParsedRequest(rows, columns, products.tolist(), b"")


def found(rows: int = ROWS, first: int = 0) -> LookupResult:
    values = (np.arange(rows * WIDTH, dtype=np.float32).reshape(rows, WIDTH) + first) % 97
    return LookupResult({"view": values}, {"view": np.ones(rows, bool)})
