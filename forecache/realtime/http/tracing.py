"""W3C Trace Context: put an answer into the trace of its request."""

import re
from random import getrandbits

TRACE = "traceparent"
_FORM = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def traced(parent: str) -> list[tuple[str, str]]:
    """Return the trace header of an answer: the request's trace with a new span; none if the request's is malformed."""
    found = _FORM.fullmatch(parent)
    if found is None or parent.startswith("ff") or not int(found[1], 16) or not int(found[2], 16):
        return []
    return [(TRACE, f"00-{found[1]}-{getrandbits(64) or 1:016x}-{found[3]}")]
