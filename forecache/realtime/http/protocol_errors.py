"""Render problems as errors of other protocols; imports little, as a reader refuses before it has loaded models."""

from collections.abc import Collection

import orjson

from forecache.kit.http import problems
from forecache.kit.http.problems import Problem
from forecache.serve.reader.http.replies import NO_STORE, Reply

MLFLOW_PATHS = ("/invocations", "/ping", "/version")
_MLFLOW_CODES = {
    400: "BAD_REQUEST", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST",
    405: "BAD_REQUEST", 408: "BAD_REQUEST", 413: "BAD_REQUEST", 415: "BAD_REQUEST", 422: "BAD_REQUEST",
    503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


def inference_error(problem: Problem) -> Reply:
    """Render a problem as an error of the Open Inference Protocol."""
    return _reply(problem, {"error": problem.detail})


def mlflow_error(problem: Problem) -> Reply:
    """Render a problem as an error of MLflow's own server."""
    code = _MLFLOW_CODES.get(problem.kind.status, "INTERNAL_ERROR")
    return _reply(problem, {"error_code": code, "message": problem.detail})


def _reply(problem: Problem, body: dict[str, str]) -> Reply:
    return Reply(problem.kind.status, [*NO_STORE, *problem.headers], orjson.dumps(body))


def not_served_problem(name: str, failures: Collection[str]) -> Problem:
    """Make the problem for a request to a model that has releases here, but none that is served.

    Args:
        failures: Models whose current release cannot be served.
    """
    if name in failures:
        return Problem(
            problems.UNREADABLE,
            f"The current release of {name} cannot be served; see the reader's log for the cause.",
            headers=[("retry-after", "5")],
        )
    return Problem(
        problems.NOT_READY, f"The reader is still loading the release of {name}.", headers=[("retry-after", "1")]
    )
