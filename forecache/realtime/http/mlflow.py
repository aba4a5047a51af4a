"""The paths of MLflow's model server: `/invocations`, `/ping` and `/version`."""

from importlib.metadata import version
from time import perf_counter_ns
from urllib.parse import parse_qs

import orjson

from forecache.reader.connections.call import Call, ClientGone
from forecache.reader.http import problems
from forecache.reader.http.app import check_media_type
from forecache.reader.http.extension import Handler
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

    def _ping(self, call: Call) -> None:
        status = 503 if not_ready(self._context, self._models) else 200
        self._send(call, status, _HEADERS, b"{}\n")

    def _version(self, call: Call) -> None:
        self._send(call, 200, _HEADERS, orjson.dumps(version("forecache")))

    async def _invocations(self, call: Call) -> None:
        headers = _HEADERS
        try:
            if call.method != "POST":
                raise Problem(problems.METHOD, "Send a POST to /invocations.", headers=[("allow", "POST")])
            check_media_type(call.headers.get("content-type"))
            served = self._served(call)
            body, clock = await self._exchange.body(served, call)
            release = served.loaded.release
            requests = requests_of(release, parse_columns(body), most_rows=self._context.settings.reader_max_keys)
            answers = await self._exchange.answers(served, requests, clock, "")
            status, content = 200, render(answers, said(served, answers, clock))
            if trace := call.headers.get(TRACE):
                headers = [*headers, *traced(trace)]
        except ClientGone:
            self._context.metrics.observe(_ROUTE, problems.CLIENT_GONE, perf_counter_ns() - call.arrived)
            return
        except Problem as problem:
            status, content, headers = problem.kind.status, render_error(problem), [*headers, *problem.headers]
        self._send(call, status, headers, content)

    def _served(self, call: Call) -> Served:
        """The model that `?model=` names, or the only one."""
        served = self._models.served
        named = parse_qs(call.query_string).get("model", [])
        if not named and len(served) != 1:
            token = None if self._context.access is None else self._context.access.identify(call.headers)
            names = [name for name in sorted(served) if token is None or token.covers(name)]
            raise Problem(
                problems.BAD_REQUEST,
                f"{len(names)} models are served here ({', '.join(names) or 'none'}); "
                "name one: /invocations?model=NAME.",
            )
        name = named[0] if named else next(iter(served))
        if self._context.access is not None:
            self._context.access.check(call.headers, name)
        if name not in served:
            kind = problems.NOT_READY if name in self._models.known else problems.NO_PIPELINE
            raise Problem(kind, f"There is no real-time model {quoted(name)} served here.")
        return served[name]

    def _send(self, call: Call, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        call.respond(status, headers, body)
        self._context.metrics.observe(_ROUTE, status, perf_counter_ns() - call.arrived)
