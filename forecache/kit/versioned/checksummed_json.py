"""Small JSON files that contain their own checksum, so that a changed byte is noticed before the content is used."""

import json
from typing import Any

import xxhash

from forecache.base.errors import DamagedError

_CHECKSUM = "checksum"


def dump_with_checksum(data: dict[str, Any]) -> bytes:
    """The JSON of an object with its checksum as the last member."""
    return json.dumps({**data, _CHECKSUM: _checksum(data)}, indent=1).encode() + b"\n"


def load_with_checksum(content: bytes, *, what: str) -> dict[str, Any]:
    """Read the object that `dump_with_checksum` wrote.

    Args:
        what: The file, for messages.

    Raises:
        DamagedError: It differs from what was written, or has no checksum, as an older Forecache wrote it.
    """
    try:
        data = json.loads(content)
        seal = data.pop(_CHECKSUM, None)
    except (ValueError, AttributeError, TypeError, RecursionError):  # no JSON, or no object
        raise damaged_error(what) from None
    if seal is None:
        raise DamagedError(
            f"{what} has no checksum: an older Forecache wrote it, or it is damaged.",
            remedy="Remove the pipeline's store folder and publish again; on a replica, pull again.",
        )
    if seal != _checksum(data):
        raise damaged_error(what)
    return dict(data)


def damaged_error(what: str) -> DamagedError:
    return DamagedError(f"{what} is damaged: its checksum does not match its bytes.")


def _checksum(data: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(data, sort_keys=True).encode())
