"""Find the handler of a request to the real-time models, and describe a model for `GET /v1/<name>`."""

import asyncio
from functools import partial

import orjson

from forecache.reader.connections.call import Call
from forecache.reader.http import problems
from forecache.reader.http.app import problem_reply
from forecache.reader.http.extension import Context, Handler
from forecache.reader.http.problems import Problem
from forecache.reader.http.replies import Reply
from forecache.reader.versions.answers import JSON
from forecache.realtime.answer.engine import Engine
from forecache.realtime.deadline.backlog import Backlog
from forecache.realtime.http.describe import description
from forecache.realtime.http.errors import not_served
from forecache.realtime.http.exchange import Exchange
from forecache.realtime.http.inference.protocol import InferenceProtocol
from forecache.realtime.http.mlflow import MlflowProtocol
from forecache.realtime.http.own import OwnProtocol
from forecache.realtime.models import Models
from forecache.realtime.rollout.shadow import Shadow
from forecache.realtime.served import Served

_PATH = "/v1/"


class Handlers:
    """Finds handlers by method and path."""

    def __init__(self, context: Context, models: Models, loop: asyncio.AbstractEventLoop) -> None:
        self._context, self._models = context, models
        self.engine = Engine(context.catalog.answers)
        self.backlog = Backlog(loop)
        models.shadow_of = lambda candidate: Shadow(candidate, self.engine, self.backlog)
        self._own = OwnProtocol(context, self.engine, self.backlog)
        exchange = Exchange(context, self.engine, self.backlog)
        self._inference, self._mlflow = InferenceProtocol(exchange, models), MlflowProtocol(exchange, models)

    def find(self, method: str, path: str) -> Handler | None:
        """Return the handler of a request; None if it is not to a real-time model."""
        if path[:4] != _PATH:
            if path[:4] == "/v2/" or path == "/v2":
                return self._inference.find(method, path)
            return self._mlflow.find(path)
        name = path[4:]
        served = self._models.served.get(name)
        if served is not None:
            if method == "POST":
                return partial(self._own.answer, served)
            return partial(self._describe, served, method)
        if name in self._models.known:
            return partial(self._not_served, name)
        model, slash, _ = name.partition("/")
        if slash and model in self._models.known and model not in self._context.catalog.answers:
            return partial(self._has_no_keys, model)
        return None

    def _describe(self, served: Served, method: str, call: Call) -> None:
        try:
            if self._context.access is not None:
                self._context.access.check(call.headers, served.name)
            if method not in ("GET", "HEAD"):
                raise Problem(
                    problems.METHOD, f"{method[:20]} is not allowed here; use GET, HEAD, POST.",
                    headers=[("allow", "GET, HEAD, POST")],
                )  # fmt: skip
            body = orjson.dumps(description(served, self._models))
            reply = Reply(200, [("content-type", JSON), ("cache-control", "no-cache")], body)
        except Problem as problem:
            reply = problem_reply(problem)
        self._own.send(call, reply)

    def _has_no_keys(self, name: str, call: Call) -> None:
        try:
            if self._context.access is not None:
                self._context.access.check(call.headers, name)
            raise Problem(
                problems.NO_ROUTE,
                f"{name} is a real-time model, which has no keys to look up; send a request to POST /v1/{name}.",
            )
        except Problem as problem:
            self._own.send(call, problem_reply(problem))

    def _not_served(self, name: str, call: Call) -> None:
        try:
            if self._context.access is not None:
                self._context.access.check(call.headers, name)
            raise not_served(name, self._models.failures)
        except Problem as problem:
            self._own.send(call, problem_reply(problem))
