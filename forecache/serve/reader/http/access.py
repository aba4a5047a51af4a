"""Authorisation by bearer tokens from a file, which is read again when it changes."""

import base64
import logging
import time
from pathlib import Path
from typing import Any

from forecache.base.errors import SettingsError
from forecache.kit.http import problems
from forecache.kit.http.problems import Problem
from forecache.serve.reader.tokens import TokenRecord, load_tokens

logger = logging.getLogger("forecache.reader")
_MAX_TOKEN_CHARS = 256
_MAX_BASIC_CHARS = 1024


class Access:
    """Checks requests against a token file.

    If the file becomes unreadable, the tokens of its last good state stay valid: a mistake in rotating tokens must
    neither lock every client out nor let everybody in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tokens = load_tokens(path)
        self._signature = _file_signature(path)

    def reload(self) -> bool:
        """Read the file again if it has changed; False if that failed, which is logged once per change."""
        signature = _file_signature(self.path)
        if signature == self._signature:
            return True
        self._signature = signature
        try:
            self._tokens = load_tokens(self.path)
        except SettingsError as error:
            logger.error("The previously read tokens stay valid: %s", error)
            return False
        logger.info("Read %d tokens from %s.", len(self._tokens.records), self.path)
        return True

    def identify(self, headers: Any, *, basic: bool = False) -> TokenRecord:
        """The token record of a request; raises a `Problem` (401) without a valid token.

        With `basic`, the token may also be the password of HTTP Basic (RFC 7617), which browsers ask for.
        """
        scheme, _, token = (headers.get("authorization") or "").partition(" ")
        if basic and scheme.lower() == "basic":
            token = _basic_password(token)
        elif scheme.lower() != "bearer":
            token = ""
        if not token:
            if basic:
                raise _password_problem()
            raise _unauthorised_problem("The request has no bearer token; send `Authorization: Bearer fct_...`.", "")
        token = token.strip()
        record = self._tokens.find(token, time.time()) if len(token) <= _MAX_TOKEN_CHARS else None
        if record is None:
            if basic:
                raise _password_problem()
            raise _unauthorised_problem(
                "The bearer token is unknown, revoked or expired; ask for a new one.", "invalid_token"
            )
        return record

    def check(self, headers: Any, scope: str, *, basic: bool = False) -> None:
        """As `identify`, and raise a `Problem` (403) if the token does not cover `scope`."""
        record = self.identify(headers, basic=basic)
        if not record.covers(scope):
            raise Problem(
                problems.FORBIDDEN,
                f"The token {record.id} ({record.name}) does not cover {scope!r}; "
                f"it covers {', '.join(record.scopes)}.",
                headers=[("www-authenticate", 'Bearer error="insufficient_scope"')],
            )


def _basic_password(credentials: str) -> str:
    """The password in the credentials of HTTP Basic; "" if they are malformed."""
    try:
        decoded = base64.b64decode(credentials[:_MAX_BASIC_CHARS].strip(), validate=True).decode()
    except ValueError:
        return ""
    return decoded.partition(":")[2]


def _password_problem() -> Problem:
    """A 401 that makes a browser ask for a name, which may be any, and a password, the token."""
    return Problem(
        problems.UNAUTHORISED,
        "A token that covers '+metrics' is needed: in a browser as the password, else as a bearer token.",
        headers=[("www-authenticate", 'Basic realm="forecache", charset="UTF-8"'), ("www-authenticate", "Bearer")],
    )


def _unauthorised_problem(detail: str, error: str) -> Problem:
    challenge = f'Bearer error="{error}"' if error else 'Bearer realm="forecache"'
    return Problem(problems.UNAUTHORISED, detail, headers=[("www-authenticate", challenge)])


def _file_signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
