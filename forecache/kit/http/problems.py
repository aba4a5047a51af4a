"""Errors over HTTP as RFC 9457 problem details: one kind for each way a request can fail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

CONTENT_TYPE = "application/problem+json"


@dataclass(frozen=True)
class ProblemKind:
    """A kind of problem; `slug` names it in the `type` member and in the metrics of clients."""

    status: int
    slug: str
    title: str

    @property
    def uri(self) -> str:
        return f"urn:forecache:problem:{self.slug}"


BAD_REQUEST = ProblemKind(400, "bad-request", "The request cannot be understood")
BAD_KEY = ProblemKind(400, "bad-key", "The key is not of the pipeline's key type")
UNAUTHORISED = ProblemKind(401, "unauthorised", "A valid bearer token is needed")
FORBIDDEN = ProblemKind(403, "forbidden", "The token does not cover this")
NO_ROUTE = ProblemKind(404, "no-such-route", "There is nothing at this path")
NO_PIPELINE = ProblemKind(404, "unknown-pipeline", "The pipeline is not known")
NO_KEY = ProblemKind(404, "unknown-key", "The key is not in the published version")
METHOD = ProblemKind(405, "method-not-allowed", "The method is not allowed here")
TIMEOUT = ProblemKind(408, "request-timeout", "The request took too long to arrive")
TOO_LARGE = ProblemKind(413, "body-too-large", "The body is too large")
LONG_PATH = ProblemKind(414, "path-too-long", "The path or query is too long")
MEDIA_TYPE = ProblemKind(415, "unsupported-media-type", "The body must be JSON")
TOO_MANY_KEYS = ProblemKind(422, "too-many-keys", "The request asks for too many keys")
TOO_MANY_CANDIDATES = ProblemKind(422, "too-many-candidates", "The request has too many candidates")
INTERNAL = ProblemKind(500, "internal", "The reader failed")
NOT_READY = ProblemKind(503, "not-ready", "The reader is not ready")
NOT_PUBLISHED = ProblemKind(503, "not-published", "The pipeline has no published version")
UNREADABLE = ProblemKind(503, "not-readable", "The published version cannot be read")
OVERLOADED = ProblemKind(503, "overloaded", "The reader has no memory left for request bodies")
BUSY = ProblemKind(429, "busy", "The reader has more requests than it can answer in time")
STALE = ProblemKind(503, "stale", "The published version is older than the pipeline allows")
DEADLINE_PASSED = ProblemKind(504, "deadline-passed", "The deadline had passed before the request arrived")

KINDS = tuple(value for value in list(globals().values()) if isinstance(value, ProblemKind))
CLIENT_GONE = 499
"""Counted, as nginx does, if the client left before its request was complete; never sent."""

STATUSES = tuple(sorted({200, 303, 304, CLIENT_GONE, *(kind.status for kind in KINDS)}))
"""Every status that the reader sends or counts."""


class Problem(Exception):
    """A request that is answered with a problem; `headers` are those that the status requires, such as `allow`."""

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = tuple(headers)
        self.members = dict(members or {})

    def body(self) -> bytes:
        kind = self.kind
        return orjson.dumps(
            {"type": kind.uri, "title": kind.title, "status": kind.status, "detail": self.detail, **self.members}
        )

    def header_list(self) -> list[tuple[str, str]]:
        return [("content-type", CONTENT_TYPE), ("cache-control", "no-store"), *self.headers]


def bad_request(detail: str) -> Problem:
    return Problem(BAD_REQUEST, detail)


def quote_value(value: object, *, limit: int = 60) -> str:
    """A value for display in a detail: quoted, and cut to `limit` characters."""
    text = str(value)
    return repr(text if len(text) <= limit else text[:limit] + "...")


def unknown_name_problem(name: str) -> Problem:
    """Make the problem of a name that nothing served has."""
    return Problem(
        NO_PIPELINE, f"There is no pipeline or real-time model {quote_value(name)}; GET /v1 lists what is served."
    )


JSON_TYPES = {list: "an array", dict: "an object", str: "text", bool: "true or false"}


def parse_json_object(body: bytes, allowed: frozenset[str] | None = None) -> dict[str, Any]:
    """The JSON object of a body; raises a `Problem` if it is none, or has a member that is not allowed (misspelt)."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The body is not JSON: {error}.") from None
    if type(data) is not dict:
        raise bad_request(f"The body is {describe_type(data)}; send an object.")
    if allowed is not None and not data.keys() <= allowed:
        unknown = min(data.keys() - allowed)
        raise bad_request(
            f"The body has the unknown member {quote_value(unknown)}; it takes {', '.join(sorted(allowed))}."
        )
    return data


def describe_type(value: object) -> str:
    """The type of a JSON value in words, for messages."""
    return "null" if value is None else JSON_TYPES.get(type(value), "a number")
