"""Checks of the header fields that describe a request's body: it is refused before it is read if it cannot be taken."""

import re
from collections.abc import Mapping

from forecache.reader.http import problems
from forecache.reader.http.problems import Problem, quoted

_JSON_TYPE = re.compile(r"application/([!-~]+\+)?json")


def check_json_body(headers: Mapping[str, str]) -> None:
    """Accept JSON as it is, and requests without a media type; raise a `Problem` for others."""
    check_encoding(headers)
    content_type = headers.get("content-type")
    if content_type is None or content_type == "application/json":
        return
    if not _JSON_TYPE.fullmatch(content_type.partition(";")[0].strip().lower()):
        raise Problem(
            problems.MEDIA_TYPE,
            f"The body has the media type {quoted(content_type)}; send application/json.",
            headers=[("accept", "application/json")],
        )


def check_encoding(headers: Mapping[str, str]) -> None:
    """Raise a `Problem` for a body that is compressed, of whatever media type."""
    encoding = headers.get("content-encoding")
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise Problem(
            problems.MEDIA_TYPE,
            "The body is compressed; send it as it is.",
            headers=[("accept-encoding", "identity")],
        )
