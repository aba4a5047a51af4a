"""The paths of the Open Inference Protocol under `/v2`."""

from functools import partial
from importlib import metadata as packages
from time import perf_counter_ns
from typing import Any

import orjson

from forecache.base.names import NAME
from forecache.kit.http import problems
from forecache.kit.http.connections.call import ClientGone, HttpCall
from forecache.kit.http.problems import Problem, quote_value
from forecache.plugins.protocols.columns import requests_of
from forecache.plugins.protocols.open_inference.infer import PLATFORM, infer_response, input_columns, model_metadata
from forecache.plugins.protocols.open_inference.tensors import HEADER_LENGTH, parse_request
from forecache.realtime.deadline.clock import shorten_deadline
from forecache.realtime.http.protocol_base import ProtocolHandler, not_ready_reason
from forecache.realtime.http.protocol_errors import inference_error, not_served_problem
from forecache.realtime.http.provenance import TRACE, provenance_of, trace_headers
from forecache.realtime.served_models import ServedModels
from forecache.realtime.served_release import ServedRelease
from forecache.serve.reader.http.extension import Handler
from forecache.serve.reader.http.replies import NO_STORE, Reply
from forecache.serve.reader.processes.worker_metrics import ROUTE
from forecache.serve.reader.versions.answers import JSON

PATH = "/v2"
_BINARY = "application/octet-stream"
_ROUTE = ROUTE["realtime"]
_NOT_STORED = ("cache-control", "no-store")


class InferenceProtocol:
    """Finds handlers for the paths of the protocol. Errors are objects with the one member `error`."""

    def __init__(self, exchange: ProtocolHandler, models: ServedModels) -> None:
        self._exchange, self._context, self._models = exchange, exchange.context, models

    def find(self, method: str, path: str) -> Handler:
        """Return the handler of a path that begins with `/v2`."""
        parts = path.strip("/").split("/")
        if method == "POST" and len(parts) >= 4 and parts[1] == "models" and parts[-1] == "infer":
            return partial(self._infer, parts)
        return partial(self._get, method, parts)

    def _get(self, method: str, parts: list[str], call: HttpCall) -> None:
        try:
            reply = Reply(200, NO_STORE, orjson.dumps(self._get_document(method, parts, call.headers)))
        except Problem as problem:
            reply = inference_error(problem)
        self._send(call, reply)

    def _get_document(self, method: str, parts: list[str], headers: Any) -> dict[str, Any]:
        """Return the document at a path of a request without a body."""
        if method not in ("GET", "HEAD"):
            raise Problem(
                problems.METHOD, f"{method[:20]} is not allowed here; use GET.", headers=[("allow", "GET, HEAD")]
            )
        match parts[1:]:
            case []:
                return {
                    "name": PLATFORM,
                    "version": packages.version("forecache"),
                    "extensions": ["binary_tensor_data"],
                }
            case ["health", "live"]:
                return {"live": True}
            case ["health", "ready"]:
                if reason := not_ready_reason(self._context, self._models):
                    raise Problem(problems.NOT_READY, reason, headers=[("retry-after", "1")])
                return {"ready": True}
            case ["models", name, *rest] if rest == ["ready"] or (rest[:1] == ["versions"] and rest[2:] == ["ready"]):
                served = self._requested_release(name, rest[1] if rest[0] == "versions" else "", headers)
                return {"name": served.name, "ready": True}
            case ["models", name, *rest] if not rest or (rest[0] == "versions" and len(rest) == 2):
                return model_metadata(self._requested_release(name, rest[1] if rest else "", headers).loaded.release)
        raise Problem(problems.NO_ROUTE, f"There is nothing at {quote_value('/' + '/'.join(parts))}.")

    def _requested_release(self, name: str, version: str, headers: Any) -> ServedRelease:
        """Return the served release, which must have the version if one is given.

        Raises:
            Problem: It is not served, or the client has no access.
        """
        if not NAME.fullmatch(name):
            raise Problem(problems.NO_PIPELINE, f"{quote_value(name)} cannot be a model's name.")
        if self._context.access is not None:
            self._context.access.check(headers, name)
        served = self._models.served.get(name)
        if served is None:
            if name in self._models.known:
                raise not_served_problem(name, self._models.failures)
            raise Problem(problems.NO_PIPELINE, f"There is no real-time model {quote_value(name)} with a release here.")
        if version and version != str(served.number):
            raise Problem(
                problems.NO_PIPELINE, f"Release {quote_value(version)} of {name} is not served; {served.number} is."
            )
        return served

    async def _infer(self, parts: list[str], call: HttpCall) -> None:
        try:
            reply = await self._infer_reply(parts, call)
        except ClientGone:
            self._context.metrics.observe(_ROUTE, problems.CLIENT_GONE, perf_counter_ns() - call.arrived)
            return
        except Problem as problem:
            reply = inference_error(problem)
        self._send(call, reply)

    async def _infer_reply(self, parts: list[str], call: HttpCall) -> Reply:
        match parts[2:]:
            case [name, "infer"]:
                version = ""
            case [name, "versions", version, "infer"]:
                pass
            case _:
                raise Problem(problems.NO_ROUTE, f"There is nothing at {quote_value('/' + '/'.join(parts))}.")
        served = self._requested_release(name, version, call.headers)
        body, clock = await self._exchange.read_body(served, call)
        asked = parse_request(body, call.headers.get(HEADER_LENGTH))
        if asked.timeout_ms is not None:
            clock = shorten_deadline(clock, asked.timeout_ms)
        release = served.loaded.release
        requests = requests_of(
            release, input_columns(release, asked.inputs), most_rows=self._context.settings.reader_max_keys
        )
        answers = await self._exchange.answer_requests(served, requests, clock, asked.id)
        content, length = infer_response(release, asked, answers, provenance_of(served, answers, clock))
        headers = [("content-type", _BINARY if length else JSON), _NOT_STORED]
        if length:
            headers.append((HEADER_LENGTH, str(length)))
        if trace := call.headers.get(TRACE):
            headers += trace_headers(trace)
        return Reply(200, headers, content)

    def _send(self, call: HttpCall, reply: Reply) -> None:
        call.respond(reply.status, reply.headers, reply.body)
        self._context.metrics.observe(_ROUTE, reply.status, perf_counter_ns() - call.arrived)
