"""The paths of MLflow's model server: `/invocations`, `/ping` and `/version`."""

from importlib.metadata import version
from time import perf_counter_ns
from urllib.parse import parse_qs

import orjson

from forecache.kit.http import problems
from forecache.kit.http.connections.call import ClientGone, HttpCall
from forecache.kit.http.problems import Problem, quote_value
from forecache.plugins.protocols.columns import requests_of
from forecache.plugins.protocols.invocations import parse_columns, render_predictions
from forecache.realtime.http.protocol_base import ProtocolHandler, not_ready_reason
from forecache.realtime.http.protocol_errors import MLFLOW_PATHS, mlflow_error, not_served_problem
from forecache.realtime.http.provenance import TRACE, provenance_of, trace_headers
from forecache.realtime.served_models import ServedModels
from forecache.realtime.served_release import ServedRelease
from forecache.serve.reader.http.extension import Handler
from forecache.serve.reader.http.parsing import check_json_body
from forecache.serve.reader.http.replies import NO_STORE, Reply
from forecache.serve.reader.processes.worker_metrics import ROUTE

_ROUTE = ROUTE["realtime"]


class MlflowProtocol:
    """Handles requests of MLflow's clients."""

    def __init__(self, exchange: ProtocolHandler, models: ServedModels) -> None:
        self._exchange, self._context, self._models = exchange, exchange.context, models
        self._handlers: dict[str, Handler] = dict(
            zip(MLFLOW_PATHS, (self._invocations, self._ping, self._version), strict=True)
        )

    def find(self, path: str) -> Handler | None:
        return self._handlers.get(path)

    def _ping(self, call: HttpCall) -> None:
        if reason := not_ready_reason(self._context, self._models):
            self._send(call, mlflow_error(_not_ready_problem(reason)))
        else:
            self._send(call, Reply(200, NO_STORE, b"{}\n"))

    def _version(self, call: HttpCall) -> None:
        self._send(call, Reply(200, NO_STORE, orjson.dumps(version("forecache"))))

    async def _invocations(self, call: HttpCall) -> None:
        try:
            if call.method != "POST":
                raise Problem(problems.METHOD, "Send a POST to /invocations.", headers=[("allow", "POST")])
            check_json_body(call.headers)
            served = self._requested_release(call)
            body, clock = await self._exchange.read_body(served, call)
            release = served.loaded.release
            requests = requests_of(release, parse_columns(body), most_rows=self._context.settings.reader_max_keys)
            answers = await self._exchange.answer_requests(served, requests, clock, "")
            trace = call.headers.get(TRACE)
            headers = [*NO_STORE, *trace_headers(trace)] if trace else NO_STORE
            reply = Reply(200, headers, render_predictions(answers, provenance_of(served, answers, clock)))
        except ClientGone:
            self._context.metrics.observe(_ROUTE, problems.CLIENT_GONE, perf_counter_ns() - call.arrived)
            return
        except Problem as problem:
            reply = mlflow_error(problem)
        self._send(call, reply)

    def _requested_release(self, call: HttpCall) -> ServedRelease:
        """Return the served model that `?model=` names, or the only one.

        Raises:
            Problem: It is not served, or the client has no access.
        """
        served, access = self._models.served, self._context.access
        named = parse_qs(call.query_string).get("model", [])
        if not named and len(served) != 1:
            raise self._unnamed_model_problem(call)
        name = named[0] if named else next(iter(served))
        if access is not None:
            access.check(call.headers, name)
        if name in served:
            return served[name]
        if name in self._models.known:
            raise not_served_problem(name, self._models.failures)
        raise Problem(problems.NO_PIPELINE, f"There is no real-time model {quote_value(name)} served here.")

    def _unnamed_model_problem(self, call: HttpCall) -> Problem:
        """Make the problem for a request that names no model, if not exactly one is served."""
        models, access = self._models, self._context.access
        token = None if access is None else access.identify(call.headers)
        if not models.served and models.known:
            if len(models.known) == 1 and (token is None or token.covers(min(models.known))):
                return not_served_problem(min(models.known), models.failures)
            return _not_ready_problem("The reader has no release of a real-time model that answers yet.")
        names = [name for name in sorted(models.served) if token is None or token.covers(name)]
        return Problem(
            problems.BAD_REQUEST,
            f"{len(names)} models are served here ({', '.join(names) or 'none'}); name one: /invocations?model=NAME.",
        )

    def _send(self, call: HttpCall, reply: Reply) -> None:
        call.respond(reply.status, reply.headers, reply.body)
        self._context.metrics.observe(_ROUTE, reply.status, perf_counter_ns() - call.arrived)


def _not_ready_problem(reason: str) -> Problem:
    return Problem(problems.NOT_READY, reason, headers=[("retry-after", "1")])
