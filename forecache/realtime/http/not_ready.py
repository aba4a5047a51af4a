"""Refuse requests to real-time models before the reader has loaded any: 503, in the form of their protocol."""

from collections.abc import Callable
from functools import partial
from urllib.parse import parse_qs

from forecache.base.names import NAME
from forecache.kit.http import problems
from forecache.kit.http.connections.call import HttpCall
from forecache.kit.http.problems import Problem, quote_value
from forecache.realtime.http.protocol_errors import MLFLOW_PATHS, inference_error, mlflow_error
from forecache.realtime.release.released_models import REALTIME, list_released_models
from forecache.serve.reader.http.app import problem_reply
from forecache.serve.reader.http.extension import ExtensionContext, Handler
from forecache.serve.reader.http.replies import NO_STORE, Reply


class NotReadyHandlers:
    """Finds handlers that refuse with 503, which a load balancer takes to another reader.

    Attributes:
        failure: Why the packages of real-time models cannot be imported; "" if they can.
    """

    def __init__(self, context: ExtensionContext) -> None:
        self.failure = ""
        self._context = context
        self._folder = context.settings.store_path / REALTIME

    def find(self, method: str, path: str) -> Handler | None:
        """Return the handler of a request; None if it is not to a real-time model that has a release here."""
        if path[:4] == "/v1/":
            name = path[4:]
            return partial(self._refuse, problem_reply, name) if self._has_release(name) else None
        is_inference = path == "/v2" or path[:4] == "/v2/"
        if not (is_inference or path in MLFLOW_PATHS) or not list_released_models(self._context.settings):
            return None
        if path == "/v2/health/live":
            return _live
        if path == "/invocations":
            return self._refuse_invocations
        parts = path.split("/")
        model = parts[3] if is_inference and parts[2:3] == ["models"] and len(parts) > 3 else None
        return partial(self._refuse, inference_error if is_inference else mlflow_error, model)

    def _has_release(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and (self._folder / name).is_dir()

    def _refuse_invocations(self, call: HttpCall) -> None:
        named = parse_qs(call.query_string).get("model", [])
        if not named and self._context.access is not None:
            try:
                self._context.access.identify(call.headers)
            except Problem as problem:
                _send(call, mlflow_error(problem))
                return
        self._refuse(mlflow_error, named[0] if named else None, call)

    def _refuse(self, form: Callable[[Problem], Reply], model: str | None, call: HttpCall) -> None:
        """Refuse a request to a model, or to the server if `model` is None."""
        try:
            if model is not None:
                self._check(model, call)
            if self.failure:
                raise Problem(
                    problems.UNREADABLE, "The packages of real-time models are missing; see the reader's log."
                )
            raise Problem(
                problems.NOT_READY, "The reader is still loading its real-time models.", headers=[("retry-after", "1")]
            )
        except Problem as problem:
            _send(call, form(problem))

    def _check(self, model: str, call: HttpCall) -> None:
        """Raise a `Problem` if the client has no access to a model, or there is none of that name."""
        if self._context.access is not None:
            self._context.access.check(call.headers, model)
        if not self._has_release(model):
            raise Problem(
                problems.NO_PIPELINE, f"There is no real-time model {quote_value(model)} with a release here."
            )


def _live(call: HttpCall) -> None:
    call.respond(200, NO_STORE, b'{"live":true}')


def _send(call: HttpCall, reply: Reply) -> None:
    call.respond(reply.status, reply.headers, reply.body)
