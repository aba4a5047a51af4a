"""The paths of MLflow's model server: `/invocations`, `/ping` and `/version`."""

from collections.abc import Awaitable
from importlib.metadata import version
from time import perf_counter_ns
from typing import Any
from urllib.parse import parse_qs

import orjson

from forecache.reader.http import problems
from forecache.reader.http.app import DONE, check_media_type
from forecache.reader.http.extension import Handler
from forecache.reader.http.limits import ClientGone
from forecache.reader.http.problems import Problem, quoted
from forecache.reader.processes.metrics import ROUTE
from forecache.reader.versions.answers import JSON
from forecache.realtime.http.columns import requests_of
from forecache.realtime.http.exchange import Exchange, not_ready, said
from forecache.realtime.http.invocations import parse_columns, render, render_error
from forecache.realtime.http.tracing import TRACE, traced
from forecache.realtime.models import Models
from forecache.realtime.served import Served

_ROUTE = ROUTE["realtime"]
_HEADERS = [("content-type", JSON), ("cache-control", "no-store")]


class MlflowProtocol:
    """Handles requests of MLflow's clients."""

    def __init__(self, exchange: Exchange, models: Models) -> None:
        self._exchange, self._context, self._models = exchange, exchange.context, models
        self._handlers: dict[str, Handler] = {
            "/invocations": self._invocations, "/ping": self._ping, "/version": self._version
        }  # fmt: skip

    def find(self, path: str) -> Handler | None:
        return self._handlers.get(path)

    def _ping(self, scope: Any, proto: Any, started: int) -> Awaitable[None]:
        status = 503 if not_ready(self._context, self._models) else 200
        self._send(proto, status, _HEADERS, b"{}\n", started)
        return DONE

    def _version(self, scope: Any, proto: Any, started: int) -> Awaitable[None]:
        self._send(proto, 200, _HEADERS, orjson.dumps(version("forecache")), started)
        return DONE

    async def _invocations(self, scope: Any, proto: Any, started: int) -> None:
        headers = _HEADERS
        try:
            if scope.method != "POST":
                raise Problem(problems.METHOD, "Send a POST to /invocations.", headers=[("allow", "POST")])
            check_media_type(scope.headers.get("content-type"))
            served = self._served(scope)
            body, clock = await self._exchange.body(served, scope.headers, proto, started)
            release = served.loaded.release
            requests = requests_of(release, parse_columns(body), most_rows=self._context.settings.reader_max_keys)
            answers = await self._exchange.answers(served, requests, clock, "")
            status, content = 200, render(answers, said(served, answers, clock))
            if trace := scope.headers.get(TRACE):
                headers = [*headers, *traced(trace)]
        except ClientGone:
            self._context.metrics.observe(_ROUTE, problems.CLIENT_GONE, perf_counter_ns() - started)
            return
        except Problem as problem:
            status, content, headers = problem.kind.status, render_error(problem), [*headers, *problem.headers]
        self._send(proto, status, headers, content, started)

    def _served(self, scope: Any) -> Served:
        """The model that `?model=` names, or the only one."""
        served = self._models.served
        named = parse_qs(scope.query_string).get("model", [])
        if not named and len(served) != 1:
            token = None if self._context.access is None else self._context.access.identify(scope.headers)
            names = [name for name in sorted(served) if token is None or token.covers(name)]
            raise Problem(
                problems.BAD_REQUEST,
                f"{len(names)} models are served here ({', '.join(names) or 'none'}); "
                "name one: /invocations?model=NAME.",
            )
        name = named[0] if named else next(iter(served))
        if self._context.access is not None:
            self._context.access.check(scope.headers, name)
        if name not in served:
            kind = problems.NOT_READY if name in self._models.known else problems.NO_PIPELINE
            raise Problem(kind, f"There is no real-time model {quoted(name)} served here.")
        return served[name]

    def _send(self, proto: Any, status: int, headers: list[tuple[str, str]], body: bytes, started: int) -> None:
        proto.response_bytes(status, headers, body)
        self._context.metrics.observe(_ROUTE, status, perf_counter_ns() - started)
