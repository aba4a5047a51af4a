"""Asks the reader for some of the payments until it answers; prints when each was seen, as JSON.

It asks for all that are due and not seen yet in one request, again and again. A delay counts from when the payment was
due to when the answer was there, so the generator's own delay, the broker's and that of the last request are in it.
Usage: python -m _stream.visible PORT NAME TRAFFIC (as JSON) EVERY EVERY_S PATIENCE_S
"""

import http.client
import json
import sys
import time
from typing import Any

import orjson

from _stream.traffic import Traffic

_MOST = 1_000


class Asked:
    """A connection that asks for many keys at a time."""

    def __init__(self, port: int, name: str) -> None:
        self._port, self._path = port, f"/v1/{name}"
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def results(self, keys: list[int]) -> list[dict[str, Any]]:
        """One result a key, in their order; raises as `answer`."""
        found: list[dict[str, Any]] = self.answer(keys)["results"]
        return found

    def answer(self, keys: list[int]) -> dict[str, Any]:
        """The whole answer.

        Raises:
            OSError: No answer came.
            RuntimeError: Its status is not 200.
        """
        try:
            self._connection.request(
                "POST", self._path, orjson.dumps({"keys": keys}), {"Content-Type": "application/json"}
            )
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise OSError(f"{type(error).__name__}: {error}") from error
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {body[:300]!r}")
        found: dict[str, Any] = orjson.loads(body)
        return found


def watch(port: int, name: str, traffic: Traffic, *, every: int, every_s: float, patience_s: float) -> dict[str, Any]:
    """Delays of every so-manyth payment in seconds, by their number in the traffic; None: not seen in time.

    Args:
        every_s: Pause between two requests, at least.
        patience_s: For how long after the last payment is due it is asked for.
    """
    asked = Asked(port, name)
    numbers = traffic.numbers[every // 2 :: every]
    due = dict(zip(numbers.tolist(), (traffic.due_us(numbers) / 1e6).tolist(), strict=True))
    coming, pending = sorted(due, reverse=True), list[int]()
    seen: dict[int, float] = {}
    requests, problems = 0, list[str]()
    give_up = traffic.begin_us / 1e6 + traffic.seconds + patience_s
    while (coming or pending) and time.time() < give_up:
        now = time.time()
        while coming and due[coming[-1]] <= now:
            pending.append(coming.pop())
        if pending:
            try:
                results = asked.results(pending[:_MOST])
            except (OSError, RuntimeError) as error:
                problems.append(str(error))
                time.sleep(0.05)
                continue
            answered, requests = time.time(), requests + 1
            found = {key for key, result in zip(pending, results, strict=False) if result["found"]}
            seen.update({key: answered - due[key] for key in found})
            pending = [key for key in pending if key not in found]
        time.sleep(every_s if pending or not coming else max(0.0, min(due[coming[-1]] - time.time(), 0.05)))
    return {
        "delays_s": [seen.get(number) for number in numbers.tolist()],
        "requests": requests,
        "problems": len(problems),
        "first_problems": problems[:3],
    }


if __name__ == "__main__":
    every, pause, patience = int(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6])
    wanted = Traffic(**json.loads(sys.argv[3]))
    outcome = watch(int(sys.argv[1]), sys.argv[2], wanted, every=every, every_s=pause, patience_s=patience)
    print("RESULT " + json.dumps(outcome))
