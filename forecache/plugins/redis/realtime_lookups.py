"""Look-ups of views some of which are served from Redis: awaited, without blocking the event loop."""

import asyncio
from time import monotonic, time
from typing import Any
from weakref import WeakKeyDictionary

from forecache.base.errors import UnavailableError
from forecache.plugins.redis.reader import RedisSource, RemoteVersion
from forecache.plugins.redis.realtime_reads import RemoteReads, RemoteUnavailable
from forecache.realtime.answer.model_path import TooLate
from forecache.realtime.lookups.lookups import ViewLookups, keys_of
from forecache.realtime.request.parsed_request import LookupResult, ParsedRequest
from forecache.realtime.workers.path_counters import PathCounters
from forecache.serve.store.packed import matrix_of

_HELD_S = 1.0
"""A version seen in Redis is not checked again for this time: it stays there until one publish after it is replaced."""

_reads: "WeakKeyDictionary[RedisSource, RemoteReads]" = WeakKeyDictionary()
_held: "WeakKeyDictionary[RemoteVersion, float]" = WeakKeyDictionary()


async def read_remote(
    lookups: ViewLookups, request: ParsedRequest, until: float, counters: PathCounters
) -> LookupResult:
    """Do the look-ups of a request: all that are in Redis in one round trip (one per node of a cluster).

    Args:
        until: Time of `time.monotonic()` at which the caller gives up.

    Raises:
        NoScores: The model must not be called with the versions that are served, or the reads took too long.
        Problem: The values of a key are not valid.
    """
    found, now = LookupResult(), time()
    asked: list[tuple[Any, Any, RemoteVersion, int]] = []
    names: list[bytes] = []
    for each in lookups:
        bound = lookups.bind_version(each, now, found)
        keys = keys_of(bound.answers.manifest.key, each.contract.by, request)
        version = bound.answers.snapshot
        if isinstance(version, RemoteVersion):
            its = version.entry_names(keys)
            names += its
            asked.append((each, bound, version, len(its)))
        else:
            lookups.read_local(each, bound, found, keys, now)
    values = await _reads_from(asked[0][2].source).get(names, until, counters) if asked else []
    start = 0
    for each, bound, version, count in asked:
        entries = version.newest_entries(values[start : start + count])
        start += count
        if None in entries:
            await _check_held(version, until)
        lookups.add_rows(each, bound, found, *matrix_of(entries, version.manifest.width))
    return found


def _reads_from(source: RedisSource) -> RemoteReads:
    reads = _reads.get(source)
    if reads is None:
        reads = _reads[source] = RemoteReads(source.url, is_cluster=source.is_cluster)
    return reads


async def _check_held(version: RemoteVersion, until: float) -> None:
    """Check that Redis still has a version: a key missing because its version was removed is not an unknown key."""
    if monotonic() - _held.get(version, 0.0) < _HELD_S:
        return
    checking = asyncio.get_running_loop().run_in_executor(None, version.check_missing)
    try:
        await asyncio.wait_for(asyncio.shield(checking), max(0.0, until - monotonic()))
    except asyncio.TimeoutError:  # of Python 3.10, where it is no TimeoutError
        checking.add_done_callback(lambda check: check.exception())
        raise TooLate from None
    except UnavailableError as error:
        raise RemoteUnavailable(str(error)) from None
    _held[version] = monotonic()
