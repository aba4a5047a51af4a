"""Asks for customers again and again while their payments stream; prints whether any answer went back, as JSON.

An answer has to be the sum of the first c payments of its customer, for a c that never falls. A customer without a
payment yet has a batch row.
Usage: python -m _stream.watched PORT NAME TRAFFIC (as JSON) UNTIL (seconds since 1970) FILE (ends it when it is there)
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from _stream.traffic import Traffic, Truth
from _stream.visible import Asked

_KEYS, _PAUSE_S = 50, 0.01
_HOT_SHARE = 0.8
_KEPT = 5


@dataclass
class Watched:
    """What the answers about each customer have been so far.

    Attributes:
        wrong: Answers that are no sum of a customer's first payments.
        with_payments: Answers that hold a payment.
        back: Answers with fewer payments than an earlier one.
        behind_s: By answer, age of the oldest payment that is not in it; 0.0 where there is none.
    """

    traffic: Traffic
    truth: Truth = field(init=False)
    answers: int = 0
    wrong: int = 0
    back: int = 0
    with_payments: int = 0
    first_faults: list[str] = field(default_factory=list)
    behind_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.truth = Truth(self.traffic)
        self._most = np.zeros(self.traffic.customers, np.int64)

    def note(self, customer: int, value: float | None, now: float) -> None:
        """Judge an answer of the moment `now`; None: the customer was not found."""
        self.answers += 1
        known = int(self._most[customer])
        if value is None or value < 1:
            if known or value is None:
                self.back += 1
                self._fault(f"customer {customer} had {known} payments, and now has {value}")
            count = 0
        else:
            found = self.truth.count_of(customer, value)
            if found is None:
                self.wrong += 1
                self._fault(f"customer {customer}: {value} is no sum of its first payments")
                return
            count = found
            self.with_payments += 1
            if count < known:
                self.back += 1
                self._fault(f"customer {customer} had {known} payments, and now has {count}")
            self._most[customer] = max(known, count)
        self.behind_s.append(max(0.0, now - self.truth.next_due_s(customer, count)))

    def _fault(self, sentence: str) -> None:
        if len(self.first_faults) < _KEPT:
            self.first_faults.append(sentence)


def watch(port: int, name: str, traffic: Traffic, *, is_over: Callable[[], bool], seed: int = 0) -> dict[str, Any]:
    """Ask until it is over; what the answers were, how old, and from when to when each request took (`spans`)."""
    asked, watched, rng = Asked(port, name), Watched(traffic), np.random.default_rng(seed)
    problems = list[str]()
    spans: list[tuple[float, float]] = []
    while not is_over():
        hot = rng.random(_KEYS) < _HOT_SHARE
        keys = np.where(hot, rng.integers(max(traffic.hot, 1), size=_KEYS), rng.integers(traffic.customers, size=_KEYS))
        began = time.time()
        try:
            results = asked.results(keys.tolist())
        except (OSError, RuntimeError) as error:
            problems.append(str(error))
            time.sleep(0.05)
            continue
        spans.append((began, time.time()))
        for key, result in zip(keys.tolist(), results, strict=True):
            # A payment that is due while the answer is made may be missing in it.
            watched.note(key, result["value"]["spent"] if result["found"] else None, began)
        time.sleep(_PAUSE_S)
    behind = np.array(watched.behind_s or [0.0])
    latencies = [ended - began for began, ended in spans]
    return {
        "requests": len(spans), "answers": watched.answers, "with_payments": watched.with_payments,
        "wrong": watched.wrong, "back": watched.back,
        "first_faults": watched.first_faults, "problems": len(problems), "first_problems": problems[:3],
        "refused": sum(problem.startswith("429:") for problem in problems),
        "behind_p50_s": float(np.quantile(behind, 0.5)), "behind_p99_s": float(np.quantile(behind, 0.99)),
        "behind_max_s": float(behind.max()),
        "latency_p99_ms": float(np.quantile(latencies or [0.0], 0.99) * 1e3),
        "latency_max_ms": max(latencies, default=0.0) * 1e3, "spans": spans,
    }  # fmt: skip


if __name__ == "__main__":
    until, end = float(sys.argv[4]), Path(sys.argv[5])
    outcome = watch(
        int(sys.argv[1]), sys.argv[2], Traffic(**json.loads(sys.argv[3])),
        is_over=lambda: time.time() > until or end.exists(),
    )  # fmt: skip
    print("RESULT " + json.dumps(outcome))
