"""Refusals that all protocols share, and their forms; imports little, as it is used before models are loaded."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import orjson

from forecache.base.table_names import NAME
from forecache.kit.http import problems
from forecache.kit.http.call import HttpCall
from forecache.kit.http.problems import Problem, quote_value, unknown_name_problem
from forecache.realtime.release.released_models import list_released_models
from forecache.serve.reader.http.app import problem_reply
from forecache.serve.reader.http.extension import ExtensionContext, Handler
from forecache.serve.reader.http.messages import NO_STORE, Reply
from forecache.serve.store.layout import REALTIME

if TYPE_CHECKING:
    from forecache.realtime.answer.served_release import ServedRelease
    from forecache.realtime.served_models import ServedModels

MLFLOW_PATHS = ("/invocations", "/ping", "/version")
_MLFLOW_CODES = {
    400: "BAD_REQUEST", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST",
    405: "BAD_REQUEST", 408: "BAD_REQUEST", 413: "BAD_REQUEST", 415: "BAD_REQUEST", 422: "BAD_REQUEST",
    429: "REQUEST_LIMIT_EXCEEDED", 503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


def inference_error(problem: Problem) -> Reply:
    return _reply(problem, {"error": problem.detail})


def mlflow_error(problem: Problem) -> Reply:
    code = _MLFLOW_CODES.get(problem.kind.status, "INTERNAL_ERROR")
    return _reply(problem, {"error_code": code, "message": problem.detail})


def _reply(problem: Problem, body: dict[str, str]) -> Reply:
    return Reply(problem.kind.status, [*NO_STORE, *problem.headers], orjson.dumps(body))


def not_ready_problem(reason: str) -> Problem:
    return Problem(problems.NOT_READY, reason, headers=[("retry-after", "1")])


def not_ready_reason(context: ExtensionContext, models: "ServedModels") -> str:
    """Return the reason why this worker should get no requests to models; "" if it should."""
    if context.runtime.is_draining:
        return "The reader is draining: it got a signal to stop."
    if not context.catalog.warm:
        return "The reader is still reading the published versions into memory."
    if waiting := models.known - models.served.keys() - models.failures.keys():
        return f"The reader is still loading the release of {', '.join(sorted(waiting))}."
    return ""


def find_release(
    context: ExtensionContext, models: "ServedModels", headers: Any, name: str, version: str = ""
) -> "ServedRelease":
    """The served release of a model, of the version if one is given; raises a `Problem` if there is none."""
    if context.access is not None:
        context.access.check(headers, name)
    served = models.served.get(name)
    if served is None:
        if name not in models.known:
            raise unknown_name_problem(name)
        if name not in models.failures:
            raise not_ready_problem(f"The reader is still loading the release of {name}.")
        detail = f"The current release of {name} cannot be served; see the reader's log for the cause."
        raise Problem(problems.UNREADABLE, detail, headers=[("retry-after", "5")])
    if version and version != str(served.number):
        raise Problem(
            problems.NO_PIPELINE, f"Release {quote_value(version)} of {name} is not served; {served.number} is."
        )
    return served


class NotReadyHandlers:
    """Finds handlers that refuse with 503 before a worker has loaded any model: load balancers try another reader."""

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
            return lambda call: call.respond(200, NO_STORE, b'{"live":true}')
        if path == "/invocations":
            return self._refuse_invocations
        parts = path.split("/")
        model = parts[3] if is_inference and parts[2:3] == ["models"] and len(parts) > 3 else None
        return partial(self._refuse, inference_error if is_inference else mlflow_error, model)

    def _has_release(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and (self._folder / name).is_dir()

    def _refuse_invocations(self, call: HttpCall) -> None:
        named = parse_qs(call.query_string).get("model", [])
        self._refuse(mlflow_error, named[0] if named else None, call, needs_token=True)

    def _refuse(
        self, form: Callable[[Problem], Reply], model: str | None, call: HttpCall, *, needs_token: bool = False
    ) -> None:
        """Refuse a request to a model, or to the server if `model` is None."""
        try:
            access = self._context.access
            if access is not None and model is not None:
                access.check(call.headers, model)
            elif access is not None and needs_token:
                access.identify(call.headers)
            if model is not None and not self._has_release(model):
                raise unknown_name_problem(model)
            if self.failure:
                raise Problem(
                    problems.UNREADABLE, "The packages of real-time models are missing; see the reader's log."
                )
            raise not_ready_problem("The reader is still loading its real-time models.")
        except Problem as problem:
            reply = form(problem)
            call.respond(reply.status, reply.headers, reply.body)
