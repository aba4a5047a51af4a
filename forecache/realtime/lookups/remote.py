"""Look-ups of views of which some are served from Redis: these reads wait, but never on the event loop's thread."""

from time import time

from forecache.realtime.lookups.lookups import Lookups, NotServed
from forecache.realtime.request.parsed import Found, ParsedRequest


async def read_remote(lookups: Lookups, request: ParsedRequest, until: float) -> Found:
    """What a request looks up.

    Args:
        until: Time of `time.monotonic()` at which the caller gives up.

    Raises:
        NoScores: The model must not be asked with what is served, or the reads took too long.
        Problem: The values of a key are none.
    """
    del until
    found = Found()
    for each in lookups:
        lookups.bound(each, time(), found)
    raise NotServed("Views in Redis are not read in real time yet.")
