"""Find the handler of a request to the real-time models, and describe a model for `GET /v1/<name>`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson

from forecache.base.plugins import find_hooks
from forecache.declare.realtime.request import RequestField
from forecache.kit.http import problems
from forecache.kit.http.call import HttpCall
from forecache.kit.http.problems import Problem
from forecache.realtime.answer.engine import RequestHandler
from forecache.realtime.answer.in_loop import InLoopPath
from forecache.realtime.answer.served_release import Exchange, ModelRequest, ServedRelease, uncached_path
from forecache.realtime.http.protocol_errors import find_release
from forecache.realtime.served_models import ServedModels
from forecache.serve.reader.http.app import problem_reply
from forecache.serve.reader.http.extension import ExtensionContext, Handler
from forecache.serve.reader.http.messages import NO_CACHE, NO_STORE, Reply, check_json_body, check_method


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
        "fallbacks": ["model", *(fallback.name for fallback in served.fallbacks)],
        "deadline_ms": release.deadline_ms,
        "runs": "loop" if path.in_loop else "process",
        "calibrated_p99_ms": round(path.p99_s * 1e3, 3) if isinstance(path, InLoopPath) else None,
        "cache_bytes": release.cache_bytes,
        "failure": models.failures.get(release.name),
    }
    if release.candidates is not None:
        fields = [_field(field) for field in release.candidates.fields]
        described["candidates"] = {"name": release.candidates.name, "fields": fields, "most": release.candidates.most}
    return described


def _field(field: RequestField) -> dict[str, Any]:
    default = field.default
    shown = default if default is None or isinstance(default, (int, float, str)) else default.isoformat()
    return {"name": field.name, "type": field.type, "required": default is None, "default": shown,
            "description": field.description}  # fmt: skip


class NativeProtocol:
    """The reader's own JSON: a body is one request."""

    check_headers = staticmethod(check_json_body)
    render_error = staticmethod(problem_reply)

    def parse(self, exchange: Exchange, body: bytes) -> Sequence[ModelRequest]:
        return (ModelRequest(body),)

    def render(self, exchange: Exchange) -> Reply:
        answered, renderer = exchange.answers[0], exchange.parsed[0][0].renderer
        deadline_ms, elapsed = exchange.clock.deadline_ms, answered.elapsed
        body = renderer.body(answered, deadline_ms=deadline_ms, elapsed=elapsed, late=answered.late)
        return Reply(200, NO_STORE, body)


_PATH = "/v1/"


class RealtimeHandlers:
    """Finds handlers by method and path."""

    def __init__(self, context: ExtensionContext, models: ServedModels) -> None:
        self._context, self._models, self._native = context, models, NativeProtocol()
        self._handler = RequestHandler(context, models.engine, models.queue)
        self._others = [
            make(self._handler, models) for name in ("open_inference", "mlflow") for make in find_hooks(name)
        ]

    def find(self, method: str, path: str) -> Handler | None:
        """Return the handler of a request; None if it is not to a real-time model."""
        if path[:4] != _PATH:
            return next((found for each in self._others if (found := each.find(path)) is not None), None)
        name = path[4:]
        served = self._models.served.get(name)
        if served is not None and method == "POST":
            return partial(self._handler.handle, served, self._native)
        if name in self._models.known or served is not None:
            return partial(self._describe, name)
        model, slash, _ = name.partition("/")
        if slash and model in self._models.known and model not in self._context.catalog.answers:
            return partial(self._refuse_key_lookup, model)
        return None

    def _describe(self, name: str, call: HttpCall) -> None:
        try:
            served = find_release(self._context, self._models, call.headers, name)
            check_method(call, "GET", "POST")
            reply = Reply(200, NO_CACHE, orjson.dumps(describe_model(served, self._models)))
        except Problem as problem:
            reply = problem_reply(problem)
        self._handler.send(call, reply)

    def _refuse_key_lookup(self, name: str, call: HttpCall) -> None:
        try:
            if self._context.access is not None:
                self._context.access.check(call.headers, name)
            detail = f"{name} is a real-time model, which has no keys to look up; send a request to POST /v1/{name}."
            raise Problem(problems.NO_ROUTE, detail)
        except Problem as problem:
            self._handler.send(call, problem_reply(problem))
