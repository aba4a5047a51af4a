"""The paths of MLflow's model server: `/invocations`, `/ping` and `/version`.

`/invocations` takes rows or columns, and answers with `predictions`:
https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#json-input
"""

from collections.abc import Awaitable, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qs

import orjson

from forecache.kit.http.call import HttpCall
from forecache.kit.http.problems import Problem, bad_request, describe_type, parse_json_object
from forecache.plugins.protocols.columns import Column, answer_columns, provenance_of, requests_of
from forecache.realtime.answer.engine import RequestHandler
from forecache.realtime.answer.served_release import Exchange, ModelRequest, ServedRelease
from forecache.realtime.http.protocol_errors import (
    MLFLOW_PATHS,
    find_release,
    mlflow_error,
    not_ready_problem,
    not_ready_reason,
)
from forecache.realtime.served_models import ServedModels
from forecache.serve.reader.http.extension import Handler
from forecache.serve.reader.http.messages import NO_STORE, Reply, check_json_body, check_method

FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")


class MlflowProtocol:
    check_headers = staticmethod(check_json_body)
    render_error = staticmethod(mlflow_error)

    def __init__(self, handler: RequestHandler, models: ServedModels) -> None:
        self._handler, self._context, self._models = handler, handler.context, models
        self._handlers: dict[str, Handler] = dict(
            zip(MLFLOW_PATHS, (self._invocations, self._ping, self._version), strict=True)
        )

    def find(self, path: str) -> Handler | None:
        return self._handlers.get(path)

    def parse(self, exchange: Exchange, body: bytes) -> Sequence[ModelRequest]:
        most_rows = self._context.settings.reader_max_keys
        return requests_of(exchange.served.loaded.release, parse_columns(body), most_rows=most_rows)

    def render(self, exchange: Exchange) -> Reply:
        """Encode a score for each row, in their order, null for none. MLflow ignores further members."""
        columns = answer_columns(exchange)
        answer = {
            "predictions": columns.scores,
            "item_answered_by": columns.answered_by,
            **provenance_of(exchange, columns),
        }
        return Reply(200, NO_STORE, orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))

    def _ping(self, call: HttpCall) -> None:
        reason = not_ready_reason(self._context, self._models)
        self._handler.send(call, mlflow_error(not_ready_problem(reason)) if reason else Reply(200, NO_STORE, b"{}\n"))

    def _version(self, call: HttpCall) -> None:
        self._handler.send(call, Reply(200, NO_STORE, orjson.dumps(version("forecache"))))

    def _invocations(self, call: HttpCall) -> Awaitable[None] | None:
        try:
            check_method(call, "POST")
            served = self._requested_release(call)
        except Problem as problem:
            self._handler.send(call, mlflow_error(problem))
            return None
        return self._handler.handle(served, self, call)

    def _requested_release(self, call: HttpCall) -> ServedRelease:
        """The served model that `?model=` names, or the only one; a `Problem` if it is not served or covered."""
        models, access = self._models, self._context.access
        named = parse_qs(call.query_string).get("model", []) or ([*models.served] if len(models.served) == 1 else [])
        if named:
            return find_release(self._context, models, call.headers, named[0])
        token = None if access is None else access.identify(call.headers)
        if not models.served and models.known:
            if len(models.known) == 1 and (token is None or token.covers(min(models.known))):
                return find_release(self._context, models, call.headers, min(models.known))
            raise not_ready_problem("The reader has no release of a real-time model that answers yet.")
        names = [name for name in sorted(models.served) if token is None or token.covers(name)]
        raise bad_request(
            f"{len(names)} models are served here ({', '.join(names) or 'none'}); name one: /invocations?model=NAME."
        )


def parse_columns(body: bytes) -> dict[str, Column]:
    """Parse the columns in a body; raises a `Problem` (400)."""
    data = parse_json_object(body)
    given = [form for form in FORMS if form in data]
    if len(given) != 1:
        raise bad_request(f"The body must be an object with one of {', '.join(FORMS)}.")
    [form] = given
    if data.get("params"):
        raise bad_request("`params` are not taken; a deadline is asked for by the header X-Deadline-Ms.")
    if form == "dataframe_split":
        return _split(data[form])
    if form == "inputs" or type(data[form]) is dict:
        return _columns_by_name(form, data[form])
    return _records(form, data[form])


def _split(table: Any) -> dict[str, Column]:
    columns, rows = (table.get("columns"), table.get("data")) if type(table) is dict else (None, None)
    if type(columns) is not list or type(rows) is not list or not all(type(name) is str for name in columns):
        raise bad_request(
            "`dataframe_split` must be an object with an array `columns` of names and an array `data` of rows."
        )
    if len(set(columns)) != len(columns):
        raise bad_request("A name is twice among the columns of `dataframe_split`.")
    for place, row in enumerate(rows):
        if type(row) is not list or len(row) != len(columns):
            raise bad_request(f"Row {place} of `dataframe_split` is not an array of {len(columns)} values.")
    return {name: [row[place] for row in rows] for place, name in enumerate(columns)}


def _records(form: str, rows: Any) -> dict[str, Column]:
    if type(rows) is not list:
        raise bad_request(f"`{form}` is {describe_type(rows)}; it must be an array of objects, one for each row.")
    for place, row in enumerate(rows):
        if type(row) is not dict:
            raise bad_request(
                f"Row {place} of `{form}` is {describe_type(row)}; it must be an object that names its values."
            )
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _columns_by_name(form: str, columns: Any) -> dict[str, Column]:
    if type(columns) is not dict:
        raise bad_request(f"`{form}` is {describe_type(columns)}; it must be an object that names its values.")
    return {name: values if type(values) is list else [values] for name, values in columns.items()}
