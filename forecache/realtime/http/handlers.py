"""Find the handler of a request to the real-time models, and describe a model for `GET /v1/<name>`."""

import asyncio
from functools import partial
from typing import Any

import orjson

from forecache.declare.realtime.request import RequestField
from forecache.kit.http import problems
from forecache.kit.http.connections.call import HttpCall
from forecache.kit.http.problems import Problem
from forecache.plugins.protocols.mlflow import MlflowProtocol
from forecache.plugins.protocols.open_inference.protocol import InferenceProtocol
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.in_loop import InLoopPath
from forecache.realtime.deadline.request_queue import RequestQueue
from forecache.realtime.http.native_protocol import NativeProtocol
from forecache.realtime.http.protocol_base import ProtocolHandler
from forecache.realtime.http.protocol_errors import not_served_problem
from forecache.realtime.rollout.shadow import ShadowScorer
from forecache.realtime.score_cache import uncached_path
from forecache.realtime.served_models import ServedModels
from forecache.realtime.served_release import ServedRelease
from forecache.serve.reader.http.app import problem_reply
from forecache.serve.reader.http.extension import ExtensionContext, Handler
from forecache.serve.reader.http.replies import Reply
from forecache.serve.reader.versions.answers import JSON


def describe_model(served: ServedRelease, models: ServedModels) -> dict[str, Any]:
    """Describe the served release for `GET /v1/<name>`: its request, model, look-ups and fallbacks."""
    release = served.loaded.release
    path = uncached_path(served.path)
    described: dict[str, Any] = {
        "name": release.name,
        "kind": "realtime",
        "description": release.description,
        "release": release.number,
        "created_at": release.created_at,
        "model": release.model.summary,
        "request": [_field(field) for field in release.request],
        "candidates": None,
        "features": list(release.features),
        "lookups": [{"view": each.view, "key": list(each.by)} for each in release.lookups],
        "ladder": ["model", *(rung.name for rung in served.rungs)],
        "deadline_ms": release.deadline_ms,
        "runs": "loop" if path.in_loop else "process",
        "calibrated_p99_ms": round(path.p99_s * 1e3, 3) if isinstance(path, InLoopPath) else None,
        "cache_bytes": release.cache_bytes,
        "failure": models.failures.get(release.name),
    }
    if release.candidates is not None:
        described["candidates"] = {
            "name": release.candidates.name,
            "fields": [_field(field) for field in release.candidates.fields],
            "most": release.candidates.most,
        }
    return described


def _field(field: RequestField) -> dict[str, Any]:
    default = field.default
    shown = default if default is None or isinstance(default, (int, float, str)) else default.isoformat()
    return {"name": field.name, "type": field.type, "required": default is None, "default": shown,
            "description": field.description}  # fmt: skip


_PATH = "/v1/"


class RealtimeHandlers:
    """Finds handlers by method and path."""

    def __init__(self, context: ExtensionContext, models: ServedModels, loop: asyncio.AbstractEventLoop) -> None:
        self._context, self._models = context, models
        self.engine = AnswerEngine(context.catalog.answers)
        self.backlog = RequestQueue(loop)
        models.shadow_of = lambda candidate: ShadowScorer(candidate, self.engine, self.backlog)
        self._own = NativeProtocol(context, self.engine, self.backlog)
        exchange = ProtocolHandler(context, self.engine, self.backlog)
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
            return partial(self._refuse_not_served, name)
        model, slash, _ = name.partition("/")
        if slash and model in self._models.known and model not in self._context.catalog.answers:
            return partial(self._refuse_key_lookup, model)
        return None

    def _describe(self, served: ServedRelease, method: str, call: HttpCall) -> None:
        try:
            if self._context.access is not None:
                self._context.access.check(call.headers, served.name)
            if method not in ("GET", "HEAD"):
                raise Problem(
                    problems.METHOD, f"{method[:20]} is not allowed here; use GET, HEAD, POST.",
                    headers=[("allow", "GET, HEAD, POST")],
                )  # fmt: skip
            body = orjson.dumps(describe_model(served, self._models))
            reply = Reply(200, [("content-type", JSON), ("cache-control", "no-cache")], body)
        except Problem as problem:
            reply = problem_reply(problem)
        self._own.send(call, reply)

    def _refuse_key_lookup(self, name: str, call: HttpCall) -> None:
        try:
            if self._context.access is not None:
                self._context.access.check(call.headers, name)
            raise Problem(
                problems.NO_ROUTE,
                f"{name} is a real-time model, which has no keys to look up; send a request to POST /v1/{name}.",
            )
        except Problem as problem:
            self._own.send(call, problem_reply(problem))

    def _refuse_not_served(self, name: str, call: HttpCall) -> None:
        try:
            if self._context.access is not None:
                self._context.access.check(call.headers, name)
            raise not_served_problem(name, self._models.failures)
        except Problem as problem:
            self._own.send(call, problem_reply(problem))
