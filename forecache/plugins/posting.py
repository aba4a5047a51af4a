"""HTTP POST of JSON to a URL from the settings, which may itself be a secret."""

import base64
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message as Headers
from email.utils import parsedate_to_datetime
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

_READ_BYTES = 4096
_SHOWN = 200
_REFUSED = (400, 413, 422)
"""Status codes after which the same message is never accepted."""
_LONGEST_WAIT_S = 3600.0


@dataclass(frozen=True)
class PostFailure:
    """A failed delivery to a receiver."""

    reason: str  # a sentence without secrets
    refused: bool = False  # the receiver will never accept this message, for example because it is too large
    retry_after_s: float = 0.0  # least seconds that the receiver asks to wait before the next try


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: a redirected POST would arrive as a GET, without its content."""

    def redirect_request(
        self, request: Any, file: IO[bytes], code: int, message: str, headers: Headers, new_url: str
    ) -> None:
        return None


def post_json(url: str, content: Any, *, headers: Mapping[str, str], timeout_s: float) -> PostFailure | None:
    """POST JSON; None if the answer's code is 2xx. The reason of a failure contains neither the URL nor the headers."""
    where, request = urlsplit(url).hostname, _build_request(url, content, headers)
    secrets = _secrets_of(url, request)
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_s) as answer:
            answer.read(_READ_BYTES)
            return None
    except urllib.error.HTTPError as error:
        said = _hide_secrets(secrets, _read_body(error))
        reason = f"{where} answered {error.code}{f': {said}' if said else ''}."
        return PostFailure(reason, error.code in _REFUSED, _retry_after_s(error.headers.get("Retry-After", "")))
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)
        return PostFailure(f"{where} cannot be reached: {_hide_secrets(secrets, str(cause))}.")


def _build_request(url: str, content: Any, headers: Mapping[str, str]) -> urllib.request.Request:
    """The request; user and password of the URL become its Authorization header."""
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    login = {"Authorization": f"Basic {base64.b64encode(unquote(user).encode()).decode()}"} if at else {}
    return urllib.request.Request(
        urlunsplit(parts._replace(netloc=place)),
        data=json.dumps(content, ensure_ascii=False, default=str).encode(errors="replace"),
        headers={"Content-Type": "application/json; charset=utf-8", "User-Agent": "forecache", **login, **headers},
        method="POST",
    )


def _secrets_of(url: str, request: urllib.request.Request) -> list[str]:
    """Texts that an error must not repeat, the longest first: the path of a URL or a header can be a token."""
    parts = urlsplit(url)
    authorization = request.get_header("Authorization", "").partition(" ")[2]
    found = [url, request.full_url, parts.path.strip("/"), parts.query, parts.password or "", authorization]
    return sorted(filter(None, found), key=len, reverse=True)


def _hide_secrets(secrets: list[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return " ".join(text.split())[:_SHOWN]


def _read_body(error: urllib.error.HTTPError) -> str:
    try:
        with error:
            return error.read(_READ_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""


def _retry_after_s(text: str) -> float:
    """Seconds of a Retry-After header, which is a number or a date; an hour at most."""
    try:
        seconds = float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)
