"""The paths of MLflow's model server: `/invocations`, `/ping` and `/version`."""

from importlib.metadata import version
from time import perf_counter_ns
from urllib.parse import parse_qs

import orjson

from forecache.reader.connections.call import Call, ClientGone
from forecache.reader.http import problems
from forecache.reader.http.body_types import check_json_body
from forecache.reader.http.extension import Handler
from forecache.reader.http.problems import Problem, quoted
from forecache.reader.http.replies import NO_STORE, Reply
from forecache.reader.processes.metrics import ROUTE
from forecache.realtime.http.columns import requests_of
from forecache.realtime.http.errors import MLFLOW_PATHS, mlflow_error, not_served
from forecache.realtime.http.exchange import Exchange, not_ready
from forecache.realtime.http.invocations import parse_columns, render
from forecache.realtime.http.told import said
from forecache.realtime.http.tracing import TRACE, traced
from forecache.realtime.models import Models
from forecache.realtime.served import Served

_ROUTE = ROUTE["realtime"]


class MlflowProtocol:
    """Handles requests of MLflow's clients."""

    def __init__(self, exchange: Exchange, models: Models) -> None:
        self._exchange, self._context, self._models = exchange, exchange.context, models
        self._handlers: dict[str, Handler] = dict(
            zip(MLFLOW_PATHS, (self._invocations, self._ping, self._version), strict=True)
        )

    def find(self, path: str) -> Handler | None:
        return self._handlers.get(path)

    def _ping(self, call: Call) -> None:
        if reason := not_ready(self._context, self._models):
            self._send(call, mlflow_error(_not_yet(reason)))
        else:
            self._send(call, Reply(200, NO_STORE, b"{}\n"))

    def _version(self, call: Call) -> None:
        self._send(call, Reply(200, NO_STORE, orjson.dumps(version("forecache"))))

    async def _invocations(self, call: Call) -> None:
        try:
            if call.method != "POST":
                raise Problem(problems.METHOD, "Send a POST to /invocations.", headers=[("allow", "POST")])
            check_json_body(call.headers)
            served = self._served(call)
            body, clock = await self._exchange.body(served, call)
            release = served.loaded.release
            requests = requests_of(release, parse_columns(body), most_rows=self._context.settings.reader_max_keys)
            answers = await self._exchange.answers(served, requests, clock, "")
            trace = call.headers.get(TRACE)
            headers = [*NO_STORE, *traced(trace)] if trace else NO_STORE
            reply = Reply(200, headers, render(answers, said(served, answers, clock)))
        except ClientGone:
            self._context.metrics.observe(_ROUTE, problems.CLIENT_GONE, perf_counter_ns() - call.arrived)
            return
        except Problem as problem:
            reply = mlflow_error(problem)
        self._send(call, reply)

    def _served(self, call: Call) -> Served:
        """Return the served model that `?model=` names, or the only one.

        Raises:
            Problem: It is not served, or the client has no access.
        """
        served, access = self._models.served, self._context.access
        named = parse_qs(call.query_string).get("model", [])
        if not named and len(served) != 1:
            raise self._unnamed(call)
        name = named[0] if named else next(iter(served))
        if access is not None:
            access.check(call.headers, name)
        if name in served:
            return served[name]
        if name in self._models.known:
            raise not_served(name, self._models.failures)
        raise Problem(problems.NO_PIPELINE, f"There is no real-time model {quoted(name)} served here.")

    def _unnamed(self, call: Call) -> Problem:
        """Make the problem for a request that names no model, if not exactly one is served."""
        models, access = self._models, self._context.access
        token = None if access is None else access.identify(call.headers)
        if not models.served and models.known:
            if len(models.known) == 1 and (token is None or token.covers(min(models.known))):
                return not_served(min(models.known), models.failures)
            return _not_yet("The reader has no release of a real-time model that answers yet.")
        names = [name for name in sorted(models.served) if token is None or token.covers(name)]
        return Problem(
            problems.BAD_REQUEST,
            f"{len(names)} models are served here ({', '.join(names) or 'none'}); name one: /invocations?model=NAME.",
        )

    def _send(self, call: Call, reply: Reply) -> None:
        call.respond(reply.status, reply.headers, reply.body)
        self._context.metrics.observe(_ROUTE, reply.status, perf_counter_ns() - call.arrived)


def _not_yet(reason: str) -> Problem:
    return Problem(problems.NOT_READY, reason, headers=[("retry-after", "1")])
