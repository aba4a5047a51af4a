"""Requests to both models of the shop all the time, while its nights change contracts; each answer is compared."""

import http.client
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import numpy as np
from contracts_shop import CUSTOMERS, true_base
from reader_support import RunningReader, running_reader
from waiting import ThreadsBeside, wait_for

from forecache.base.settings import Settings
from forecache.base.table_names import split_kept_name

ANSWERS = int(os.environ.get("CONTRACT_ANSWERS", "200"))
"""Answers of each phase; 25,000 take some minutes."""
PAUSE_S = 0.01
"""Between two requests while nobody waits for answers, so that a night that runs meanwhile has the cores."""


OF_A_BUSY_MACHINE = frozenset({"deadline", "overload", "worker_lost", "refused"})
"""Reasons of fallbacks that time decides; a wrong or missing contract has another one."""


class Asking(ThreadsBeside):
    """Asks both models all the time, and compares each answer with what the sales say, to the bit.

    An answer by a fallback is wrong, unless its reason is one of `excused`.
    """

    def __init__(self, reader: RunningReader, excused: frozenset[str] = OF_A_BUSY_MACHINE) -> None:
        super().__init__(self._run)
        self.url, self._excused = reader.url, excused
        self.answers: Counter[tuple[str, ...]] = Counter()
        self.wrong: list[Any] = []
        self.total = 0  # answers that were right
        self._hurry = threading.Event()

    def _run(self) -> None:
        rng, connection = random.Random(3), http.client.HTTPConnection(self.url.removeprefix("http://"))
        while not self.stop.is_set():
            model, customer, factor = rng.choice(("first", "second")), rng.randrange(CUSTOMERS), rng.randint(1, 16) / 4
            body = json.dumps({"customer": customer, "factor": factor})
            connection.request("POST", f"/v1/{model}", body, {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            try:
                if answer.get("fallback_reason") not in self._excused:
                    self._compare(model, customer, factor, answer)
            except (AssertionError, KeyError, ValueError):
                self.wrong.append(answer)
            self._hurry.wait(PAUSE_S)
        connection.close()
        print(f"{self.total:,} answers are right to the bit, {len(self.wrong):,} are wrong.")

    def _compare(self, model: str, customer: int, factor: float, answer: dict[str, Any]) -> None:
        assert answer["answered_by"] == "model"
        definition = {1: "old", 2: "new"}[answer["release"]]
        read = {name.partition("__")[0]: date.fromisoformat(of["as_of"]) for name, of in answer["stores"].items()}
        truth = true_base(definition, customer, read["habits"], read["recent"]) * factor
        assert np.float32(answer["value"]["score"]).tobytes() == np.float32(truth).tobytes()
        kinds = sorted("kept" if split_kept_name(name) else "own" for name in answer["stores"])
        self.answers[(model, definition, *kinds)] += 1
        self.total += 1

    def wait_for(self, count: int = ANSWERS) -> None:
        """Wait for more answers, of which none may be wrong."""
        seen = self.total
        self._hurry.set()
        wait_for(lambda: self.total >= seen + count or self.wrong, seconds=600)
        self._hurry.clear()
        assert not self.wrong, (len(self.wrong), self.wrong[0])

    def wait_until_right(self) -> None:
        """Wait until no answer is wrong any more, as a reader finds features some time after they are built."""

        def is_right() -> bool:
            self.wrong.clear()
            seen = self.total
            wait_for(lambda: self.total >= seen + 50 or self.wrong)
            return not self.wrong

        wait_for(is_right)

    def settle(self, *expected: tuple[str, ...]) -> None:
        """Wait until all answers are of these kinds, as a reader loads a release some time after it is made."""

        def is_settled() -> bool:
            self.answers.clear()
            self.wait_for(50)
            return set(self.answers) == set(expected) or bool(self.wrong)

        wait_for(is_settled)
        self.wait_for()
        assert set(self.answers) == set(expected)


OLD_KEPT, NEW_KEPT = ("first", "old", "kept", "kept"), ("second", "new", "kept", "kept")
OLD, NEW = ("first", "old", "own", "own"), ("second", "new", "own", "own")


@contextmanager
def asking(settings: Settings) -> Iterator[Asking]:
    with running_reader(settings, redis_url=settings.redis_url) as reader:
        wait_for(lambda: answers(reader, "first") and answers(reader, "second"))
        # Redis may stand still for longer than a reader waits for it.
        excused = OF_A_BUSY_MACHINE | ({"lookup"} if settings.redis_url else set())
        with Asking(reader, excused) as load:
            yield load


def answers(reader: RunningReader, model: str) -> bool:
    connection = http.client.HTTPConnection(reader.url.removeprefix("http://"))
    connection.request("POST", f"/v1/{model}", '{"customer":1,"factor":1}', {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer.get("answered_by") == "model"
