"""Requests to the readers of a cluster all the time: each has to be answered, whichever machine is killed."""

import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field

_EVERY_S, _TIMEOUT_S = 0.2, 10.0
_USERS, _KNOWN = 200, 20  # users that the model is asked for, and those that have predictions every night


@dataclass
class Requests:
    """Requests for predictions, and to a real-time model.

    Attributes:
        address: Of the load balancer.
        model: Name of the model; "" for none.
        number: Requests until now.
        unanswered: Why some had no answer.
        answered_ids: Ids of the requests that the model has answered.
    """

    address: str
    model: str
    number: int = 0
    unanswered: list[str] = field(default_factory=list)
    answered_ids: set[str] = field(default_factory=set)

    def run(self, stop: threading.Event) -> None:
        """Ask until `stop` is set."""
        dice = random.Random(0)
        while not stop.wait(_EVERY_S):
            self.number += 1
            if self.model and self.number % 2:
                reason = self.ask_model(f"r{self.number}", dice.randrange(_USERS))
            else:
                reason = self.ask(dice.randrange(_KNOWN))
            if reason:
                self.unanswered.append(f"{time.strftime('%H:%M:%S')} {reason}")
                print(f"A request had no answer: {reason}", flush=True)

    def find_missing(self, ports: Iterable[int]) -> str:
        """Ask each reader for a prediction and of the model; returns why one has no answer yet, "" if all have."""
        for port in ports:
            self.number += 1
            reader = Requests(f"http://127.0.0.1:{port}", self.model, answered_ids=self.answered_ids)
            if reason := reader.ask(0) or (self.model and reader.ask_model(f"r{self.number}", 0)):
                return reason
        return ""

    def ask(self, user: int) -> str:
        """Ask for a prediction; returns why there is none, "" if there is one."""
        return self._send(urllib.request.Request(f"{self.address}/v1/user_risk/{user}"))

    def ask_model(self, request_id: str, user: int) -> str:
        """Ask the model about a payment; returns why there is no answer, "" if there is one."""
        body = json.dumps(
            {"request_id": request_id or "first", "user_id": user, "amount": 4 + user % 37, "country": "home"}
        )
        headers = {"Content-Type": "application/json"}
        reason = self._send(urllib.request.Request(f"{self.address}/v1/{self.model}", body.encode(), headers))
        if not reason:
            self.answered_ids.add(request_id)
        return reason

    def _send(self, request: urllib.request.Request) -> str:
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return "" if answer.status == 200 else f"{answer.status}"
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read()[:200]!r}"
        except OSError as error:
            return str(error)
