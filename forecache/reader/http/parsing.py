"""Parsing of paths, queries and bodies, and checks of the header fields that describe a body.

Hand-written, because it is short and on the hot path. A body is refused by its header fields before it is read.
"""

from typing import Any
from urllib.parse import parse_qsl

import orjson

from forecache.reader.http import problems
from forecache.reader.http.problems import Problem, quoted

MAX_FIELDS = 256
MAX_LIMIT = 1000
_LIMIT_DIGITS = 9


def pipeline_and_key(path: str) -> tuple[str, str, str] | None:
    """The parts of `/v1/<pipeline>[/<key>]`: pipeline, the slash after it or "", key; None for other paths."""
    # Comparing a slice is faster than startswith, which makes up for this call on the hot path.
    return path[4:].partition("/") if path[:4] == "/v1/" else None


def json_object(body: bytes, allowed: frozenset[str]) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        Problem: The body is not JSON, not an object, or has an unknown member (most often a misspelt one).
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(problems.BAD_REQUEST, f"The body is not JSON: {error}.") from None
    if type(data) is not dict:
        raise Problem(problems.BAD_REQUEST, f"The body is {kind_of(data)}; send an object.")
    if not data.keys() <= allowed:
        unknown = min(data.keys() - allowed)
        raise Problem(
            problems.BAD_REQUEST,
            f"The body has the unknown member {quoted(unknown)}; it takes {', '.join(sorted(allowed))}.",
        )
    return data


def member(data: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """A member, which must have the type `kind`.

    Raises:
        Problem: The member has another type, or is missing and has no default.
    """
    value = data.get(name, default)
    if type(value) is not kind:
        found = kind_of(value) if name in data else "missing"
        raise Problem(problems.BAD_REQUEST, f"The member {name!r} is {found}; it must be {_NAMES[kind]}.")
    return value


def keys_fields_and_limit(body: bytes, max_keys: int) -> tuple[list[Any], list[str], int]:
    """The keys (not yet checked), field names and limit of `{"keys": [...], "fields": [...], "limit": n}`.

    The limit is 0 if there is none.
    """
    data = json_object(body, _MANY)
    keys: list[Any] = member(data, "keys", list)
    check_count(len(keys), max_keys)
    limit = data.get("limit", 0)
    if "limit" in data and (type(limit) is not int or not 1 <= limit <= MAX_LIMIT):
        raise _bad_limit(limit)
    return keys, names(member(data, "fields", list, []), "fields"), limit


def check_count(count: int, max_keys: int) -> None:
    """Raise a `Problem` (422) if a request asks for too many keys."""
    if count > max_keys:
        raise Problem(
            problems.TOO_MANY_KEYS,
            f"The request asks for {count} keys; the most is {max_keys}. Split it.",
            members={"max_keys": max_keys},
        )


def names(values: list[Any], what: str) -> list[str]:
    """The values, which must be strings, without duplicates."""
    if len(values) > MAX_FIELDS:
        raise Problem(problems.BAD_REQUEST, f"The list {what!r} has {len(values)} items; the most is {MAX_FIELDS}.")
    for value in values:
        if type(value) is not str or not value:
            raise Problem(problems.BAD_REQUEST, f"The list {what!r} has {kind_of(value)} in it; it takes names.")
    return list(dict.fromkeys(values))


def plain_limit(query: str) -> int:
    """The limit of a query that is `limit=10` and nothing more; 0 for every other query."""
    # The most frequent query, on the hot path: a parser would cost too much.
    digits = query[6:]
    # Python refuses to read a number of thousands of digits.
    if query[:6] == "limit=" and len(digits) <= _LIMIT_DIGITS and digits.isdecimal() and digits.isascii():
        limit = int(digits)
        return limit if limit <= MAX_LIMIT else 0
    return 0


def fields_and_limit(query: str) -> tuple[list[str], int]:
    """The field names and the limit of `fields=a,b&limit=10`; none and 0 for an empty query.

    Raises:
        Problem: The query has another parameter, two limits, or one that is not 1 to 1,000.
    """
    if not query:
        return [], 0
    limit = plain_limit(query)
    if limit:
        return [], limit
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Problem(problems.BAD_REQUEST, f"The query has more than {MAX_FIELDS} parameters.") from None
    fields: list[str] = []
    for name, value in pairs:
        if name == "fields":
            fields.extend(value.split(","))
        elif name == "limit" and not limit:
            limit = plain_limit(f"limit={value}")
            if not limit:
                raise _bad_limit(value)
        elif name == "limit":
            raise Problem(problems.BAD_REQUEST, "The query has more than one `limit`; send one.")
        else:
            raise Problem(
                problems.BAD_REQUEST,
                f"The query parameter {quoted(name)} is unknown; there are `fields` and `limit`.",
            )
    return names(fields, "fields"), limit


def _bad_limit(value: object) -> Problem:
    return Problem(
        problems.BAD_REQUEST, f"The limit {quoted(value)} is not a whole number from 1 to {MAX_LIMIT:,}; send one."
    )


_MANY = frozenset({"keys", "fields", "limit"})
_NAMES = {list: "an array", dict: "an object", str: "text", bool: "true or false"}


def kind_of(value: object) -> str:
    """The type of a JSON value in words, for messages."""
    if value is None:
        return "null"
    return _NAMES.get(type(value), "a number")
