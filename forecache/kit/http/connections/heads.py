"""The heads of responses as bytes."""

from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from math import floor
from time import time

import orjson

_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_WITHOUT_BODY = frozenset({204, 304})
_CLOSE = b"connection: close\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _DateField:
    """The header field `date`, made once a second."""

    line, since, until = b"", 0, 0

    @classmethod
    def now(cls) -> bytes:
        now = time()
        if not cls.since <= now < cls.until:  # a clock that was ahead is set back
            cls.line = b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n"
            cls.since, cls.until = floor(now), floor(now) + 1
        return cls.line


def response_head(status: int, headers: Sequence[tuple[str, str]], length: int, *, closes: bool, old: bool) -> bytes:
    """The head of a response.

    Args:
        length: Of its body, in bytes.
        closes: Whether the connection is closed after the response.
        old: Whether the client speaks HTTP/1.0, which keeps a connection only if the response says so.
    """
    parts = [_STATUS[status], _known(headers) if type(headers) is tuple else _encode_fields(headers)]
    if status not in _WITHOUT_BODY:
        parts.append(b"content-length: %d\r\n" % length)
    if closes:
        parts.append(_CLOSE)
    elif old:
        parts.append(b"connection: keep-alive\r\n")
    parts += (_DateField.now(), b"\r\n")
    return b"".join(parts)


def _encode_fields(headers: Sequence[tuple[str, str]]) -> bytes:
    return b"".join(b"%b: %b\r\n" % (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)


_known = lru_cache(256)(_encode_fields)
"""Fields in a tuple are constants, or those of a version, which many responses share."""


def refusal_response(status: int, detail: str) -> bytes:
    """The whole response to an invalid request; the connection is closed after it."""
    body = orjson.dumps({
        "type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail,
    })  # fmt: skip
    fields = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    return response_head(status, fields, len(body), closes=True, old=False) + body
