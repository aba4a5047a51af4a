"""The paths of the Open Inference Protocol under `/v2`, and a release as a model of it: metadata, inputs, outputs."""

from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from importlib import metadata as packages
from typing import Any

import numpy as np
import orjson

from forecache.declare.realtime.request import FieldType
from forecache.declare.realtime.request_rows import DTYPES
from forecache.kit.http import problems
from forecache.kit.http.call import HttpCall
from forecache.kit.http.problems import Problem, bad_request, quote_value
from forecache.plugins.protocols.columns import AnswerColumns, Column, answer_columns, provenance_of, requests_of
from forecache.plugins.protocols.open_inference_messages import (
    BYTES,
    HEADER_LENGTH,
    InferRequest,
    Tensor,
    parse_request,
    render_response,
)
from forecache.realtime.answer.engine import RequestHandler
from forecache.realtime.answer.served_release import Exchange, ModelRequest
from forecache.realtime.deadline import shorten_deadline
from forecache.realtime.http.protocol_errors import (
    find_release,
    inference_error,
    not_ready_problem,
    not_ready_reason,
)
from forecache.realtime.release.format import Release
from forecache.realtime.request.request_parser import REQUEST_ID
from forecache.realtime.served_models import ServedModels
from forecache.serve.reader.http.extension import Handler
from forecache.serve.reader.http.messages import NO_STORE, Reply, check_encoding, check_method

PLATFORM = "forecache"
ANSWERED_BY, RANK = "answered_by", "rank"
_DATATYPE: Mapping[FieldType, str] = {
    "bigint": "INT64", "double": "FP64", "boolean": "BOOL", "string": BYTES, "timestamp": BYTES, "date": BYTES
}  # fmt: skip


class InferenceProtocol:
    """Finds handlers for the paths of the protocol. Errors are objects with the one member `error`."""

    def __init__(self, handler: RequestHandler, models: ServedModels) -> None:
        self._handler, self._context, self._models = handler, handler.context, models

    def find(self, path: str) -> Handler | None:
        """Return the handler of a path that begins with `/v2`; None of another."""
        if path[:4] != "/v2/" and path != "/v2":
            return None
        match path.strip("/").split("/")[1:]:
            case ["models", name, "infer"]:
                return partial(self._infer, name, "")
            case ["models", name, "versions", version, "infer"]:
                return partial(self._infer, name, version)
            case parts:
                return partial(self._get, parts)

    def _infer(self, name: str, version: str, call: HttpCall) -> Awaitable[None] | None:
        try:
            check_method(call, "POST")
            served = find_release(self._context, self._models, call.headers, name, version)
        except Problem as problem:
            self._handler.send(call, inference_error(problem))
            return None
        return self._handler.handle(served, _Inference(self._context.settings.reader_max_keys), call)

    def _get(self, parts: list[str], call: HttpCall) -> None:
        try:
            reply = Reply(200, NO_STORE, orjson.dumps(self._get_document(parts, call)))
        except Problem as problem:
            reply = inference_error(problem)
        self._handler.send(call, reply)

    def _get_document(self, parts: list[str], call: HttpCall) -> dict[str, Any]:
        check_method(call, "GET")
        find = partial(find_release, self._context, self._models, call.headers)
        match parts:
            case []:
                version = packages.version("forecache")
                return {"name": PLATFORM, "version": version, "extensions": ["binary_tensor_data"]}
            case ["health", "live"]:
                return {"live": True}
            case ["health", "ready"]:
                if reason := not_ready_reason(self._context, self._models):
                    raise not_ready_problem(reason)
                return {"ready": True}
            case ["models", name, "ready"]:
                return {"name": find(name).name, "ready": True}
            case ["models", name, "versions", version, "ready"]:
                return {"name": find(name, version).name, "ready": True}
            case ["models", name]:
                return model_metadata(find(name).loaded.release)
            case ["models", name, "versions", version]:
                return model_metadata(find(name, version).loaded.release)
        raise Problem(problems.NO_ROUTE, f"There is nothing at {quote_value(call.path)}.")


class _Inference:
    """Parses one request for inference, and renders its response."""

    check_headers = staticmethod(check_encoding)  # its clients send any media type, or none
    render_error = staticmethod(inference_error)
    _request: InferRequest

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows

    def parse(self, exchange: Exchange, body: bytes) -> Sequence[ModelRequest]:
        release = exchange.served.loaded.release
        asked = self._request = parse_request(body, exchange.call.headers.get(HEADER_LENGTH))
        if asked.timeout_ms is not None:
            exchange.clock = shorten_deadline(exchange.clock, asked.timeout_ms)
        names = [each["name"] for each in model_metadata(release)["outputs"]]
        if asked.wanted is not None and (unknown := asked.wanted.keys() - set(names)):
            raise bad_request(f"There is no output {quote_value(min(unknown))}; {release.name} has {', '.join(names)}.")
        requests = requests_of(release, input_columns(release, asked.inputs), most_rows=self._most_rows)
        if asked.id and all(field.name != REQUEST_ID for field in release.request):
            for place, each in enumerate(requests):
                each.values = {**(each.values or {}), REQUEST_ID: asked.id}
                each.id_suffix = f"/{place}" if len(requests) > 1 else ""  # each has its own row in the log
        return requests

    def render(self, exchange: Exchange) -> Reply:
        release, asked, columns = exchange.served.loaded.release, self._request, answer_columns(exchange)
        outputs = _outputs(release, columns)
        wanted = asked.wanted if asked.wanted is not None else dict.fromkeys(outputs, asked.binary)
        head: dict[str, Any] = {"model_name": release.name, "model_version": str(release.number)}
        if asked.id:
            head["id"] = asked.id
        head["parameters"] = provenance_of(exchange, columns)
        content, length = render_response(head, [outputs[name] for name in wanted], list(wanted.values()))
        if not length:
            return Reply(200, NO_STORE, content)
        binary = [("content-type", "application/octet-stream"), *NO_STORE[1:], (HEADER_LENGTH, str(length))]
        return Reply(200, binary, content)


def model_metadata(release: Release) -> dict[str, Any]:
    """Return the model's metadata. Its version is the release's number; dates and timestamps are texts in ISO 8601."""
    own = {each.name for each in release.request} if release.candidates is not None else set()
    inputs = [
        {
            "name": each.name,
            "datatype": _DATATYPE[each.type],
            "shape": [1] if each.name in own else [-1],
            "parameters": {"optional": each.default is not None, "type": each.type},
        }
        for each in release.all_fields
    ]
    empty = _outputs(release, AnswerColumns(np.empty(0), np.empty(0), ()))
    outputs = [{"name": each.name, "datatype": each.datatype, "shape": [-1]} for each in empty.values()]
    described = {"name": release.name, "versions": [str(release.number)], "platform": PLATFORM}
    return {**described, "inputs": inputs, "outputs": outputs}


def input_columns(release: Release, inputs: Sequence[Tensor]) -> dict[str, Column]:
    """Convert numbers to the type of their field if that holds each of them; the parser judges all other values."""
    types = {each.name: DTYPES[each.type] for each in release.all_fields if each.type in ("bigint", "double")}
    found: dict[str, Column] = {}
    for tensor in inputs:
        values, dtype = tensor.values, types.get(tensor.name)
        if dtype is not None and isinstance(values, np.ndarray) and values.dtype != bool:
            values = values.astype(dtype, copy=False) if np.can_cast(values.dtype, dtype) else values
        found[tensor.name] = values
    return found


def _outputs(release: Release, columns: AnswerColumns) -> dict[str, Tensor]:
    found = [Tensor(release.output, "FP64", columns.scores)]
    if release.candidates is not None:
        found.append(Tensor(RANK, "INT64", columns.ranks))
    found.append(Tensor(ANSWERED_BY, BYTES, columns.answered_by))
    return {each.name: each for each in found}
