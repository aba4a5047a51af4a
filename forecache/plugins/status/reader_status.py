"""The status document of a running reader, asked over HTTP."""

import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from forecache.base.errors import InputError, UnavailableError

_TIMEOUT_S = 10.0


def ask_status(url: str, token: str = "") -> dict[str, Any]:
    """The document of a reader's `/status.json`.

    Args:
        url: Address of the reader, such as http://127.0.0.1:8080.
        token: Bearer token that covers `+metrics`; "" if the reader asks for none.

    Raises:
        InputError: `url` is no address, or the token is not accepted.
        UnavailableError: No reader answers there.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r} is no address of a reader.", remedy="Write it like http://127.0.0.1:8080.")
    request = urllib.request.Request(f"{url.rstrip('/')}/status.json")
    if token:
        request.add_unredirected_header("authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            remedy = "Give --token-file with a token that covers '+metrics'; `forecache tokens create` makes one."
            raise InputError(f"The reader at {url} refuses to show its status ({error.code}).", remedy=remedy) from None
        raise UnavailableError(
            f"{url} answers {error.code} for /status.json.", remedy="Check that a reader of this version is there."
        ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else str(error).strip()
        raise UnavailableError(
            f"No reader answers at {url}: {reason}.", remedy="Start one with `forecache serve`, or give its --url."
        ) from None
    if not isinstance(found, dict) or "traffic" not in found:
        raise UnavailableError(f"{url} is no reader.", remedy="Give the address of `forecache serve`.")
    return found


def token_from(file: Path | None) -> str:
    """The token in a file; "" without one.

    Raises:
        InputError: The file cannot be read or is empty.
    """
    if file is None:
        return ""
    try:
        token = file.read_text().strip()
    except OSError as error:
        raise InputError(f"The token file {file} cannot be read: {error.strerror}.", remedy="Check its path.") from None
    if not token:
        raise InputError(f"The token file {file} is empty.", remedy="Put one token into it.")
    return token
