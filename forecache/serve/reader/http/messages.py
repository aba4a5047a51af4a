"""Requests and replies, and checks that many handlers share."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from forecache.kit.http import problems
from forecache.kit.http.call import HttpCall
from forecache.kit.http.problems import JSON_TYPES, Problem, bad_request, describe_type, parse_json_object, quote_value
from forecache.serve.reader.versions.answers import JSON, Headers
from forecache.serve.reader.versions.partial_versions import EntriesMissingError
from forecache.serve.reader.worker_metrics import ROUTE


class Reply(NamedTuple):
    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


@dataclass(slots=True)
class HttpRequest:
    method: str
    path: str
    query: str
    headers: Any
    now: float
    body: bytes = b""
    route: int = ROUTE["other"]  # in the metrics, set once it is known
    render: Callable[[], bytes] | None = None  # makes the body of the reply in another thread
    missing: EntriesMissingError | None = None  # what the reply needs and is to be fetched


NO_CACHE: Headers = (("content-type", JSON), ("cache-control", "no-cache"))
NO_STORE: Headers = (("content-type", JSON), ("cache-control", "no-store"))


def check_method(request: HttpRequest | HttpCall, *methods: str) -> None:
    """Raise a `Problem` (405) for another method."""
    allowed = (*methods, "HEAD") if "GET" in methods else methods
    if request.method not in allowed:
        listed = ", ".join(allowed)
        detail = f"{request.method[:20]} is not allowed at {quote_value(request.path)}; use {listed}."
        raise Problem(problems.METHOD, detail, headers=[("allow", listed)])


def etag_matches(header: str | None, etag: str) -> bool:
    """Return whether If-None-Match names the ETag, compared weakly (RFC 9110, 13.1.2); False if either is missing."""
    if header is None or not etag:
        return False
    wanted = etag.removeprefix("W/")
    return header.strip() == "*" or wanted in (part.strip().removeprefix("W/") for part in header.split(","))


MAX_FIELDS, MAX_LIMIT, _LIMIT_DIGITS = 256, 1000, 9
_JSON_TYPE = re.compile(r"application/([!-~]+\+)?json")
_MANY = frozenset({"keys", "fields", "limit"})


def split_path(path: str) -> tuple[str, str, str] | None:
    """The parts of `/v1/<pipeline>[/<key>]`: pipeline, the slash after it or "", key; None for other paths."""
    # Comparing a slice is faster than startswith, which makes up for this call on the hot path.
    return path[4:].partition("/") if path[:4] == "/v1/" else None


def typed_member(data: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """A member of the type `kind`; raises a `Problem` if it has another, or is missing and has no default."""
    value = data.get(name, default)
    if type(value) is not kind:
        found = describe_type(value) if name in data else "missing"
        raise bad_request(f"The member {name!r} is {found}; it must be {JSON_TYPES[kind]}.")
    return value


def parse_keys_request(body: bytes, max_keys: int) -> tuple[list[Any], list[str], int]:
    """(keys, not yet checked, field names, limit or 0) of `{"keys": [...], "fields": [...], "limit": n}`."""
    data = parse_json_object(body, _MANY)
    keys: list[Any] = typed_member(data, "keys", list)
    check_count(len(keys), max_keys)
    limit = data.get("limit", 0)
    if "limit" in data and (type(limit) is not int or not 1 <= limit <= MAX_LIMIT):
        raise _bad_limit_problem(limit)
    return keys, check_names(typed_member(data, "fields", list, []), "fields"), limit


def check_count(count: int, max_keys: int) -> None:
    """Raise a `Problem` (422) if a request asks for too many keys."""
    if count > max_keys:
        detail = f"The request asks for {count} keys; the most is {max_keys}. Split it."
        raise Problem(problems.TOO_MANY_KEYS, detail, members={"max_keys": max_keys})


def check_names(values: list[Any], what: str) -> list[str]:
    """The values, which must be strings, without duplicates."""
    if len(values) > MAX_FIELDS:
        raise bad_request(f"The list {what!r} has {len(values)} items; the most is {MAX_FIELDS}.")
    for value in values:
        if type(value) is not str or not value:
            raise bad_request(f"The list {what!r} has {describe_type(value)} in it; it takes names.")
    return list(dict.fromkeys(values))


def parse_plain_limit(query: str) -> int:
    """The limit of a query that is `limit=10` and nothing more; 0 for every other query."""
    # The most frequent query, on the hot path: a parser would cost too much.
    digits = query[6:]
    # Python refuses to read a number of thousands of digits.
    if query[:6] == "limit=" and len(digits) <= _LIMIT_DIGITS and digits.isdecimal() and digits.isascii():
        limit = int(digits)
        return limit if limit <= MAX_LIMIT else 0
    return 0


def parse_query(query: str) -> tuple[list[str], int]:
    """(field names, limit or 0) of `fields=a,b&limit=10`; raises a `Problem` for other parameters and limits."""
    limit = parse_plain_limit(query)
    if limit or not query:
        return [], limit
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise bad_request(f"The query has more than {MAX_FIELDS} parameters.") from None
    fields: list[str] = []
    for name, value in pairs:
        if name == "fields":
            fields.extend(value.split(","))
        elif name == "limit" and not limit:
            limit = parse_plain_limit(f"limit={value}")
            if not limit:
                raise _bad_limit_problem(value)
        elif name == "limit":
            raise bad_request("The query has more than one `limit`; send one.")
        else:
            raise bad_request(f"The query parameter {quote_value(name)} is unknown; there are `fields` and `limit`.")
    return check_names(fields, "fields"), limit


def _bad_limit_problem(value: object) -> Problem:
    return bad_request(f"The limit {quote_value(value)} is not a whole number from 1 to {MAX_LIMIT:,}; send one.")


def check_json_body(headers: Mapping[str, str]) -> None:
    """Accept JSON as it is, and requests without a media type; raise a `Problem` for others."""
    check_encoding(headers)
    content_type = headers.get("content-type", JSON)
    if content_type != JSON and not _JSON_TYPE.fullmatch(content_type.partition(";")[0].strip().lower()):
        detail = f"The body has the media type {quote_value(content_type)}; send application/json."
        raise Problem(problems.MEDIA_TYPE, detail, headers=[("accept", "application/json")])


def check_encoding(headers: Mapping[str, str]) -> None:
    """Raise a `Problem` for a body that is compressed, of whatever media type."""
    if (encoding := headers.get("content-encoding")) and encoding.strip().lower() not in ("", "identity"):
        detail = "The body is compressed; send it as it is."
        raise Problem(problems.MEDIA_TYPE, detail, headers=[("accept-encoding", "identity")])
