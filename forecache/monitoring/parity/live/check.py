"""Checks if the live look-ups of a logged answer can be repeated on the rows of the stream's table."""

from collections.abc import Mapping, Sequence

from forecache.errors import InputError
from forecache.monitoring.parity.live.streams import Streamed
from forecache.monitoring.parity.lookups import keys_of
from forecache.monitoring.parity.replayed import Logged
from forecache.monitoring.parity.versions import Held
from forecache.realtime.release.format import LookupContract


def why_not(
    each: Logged, lookups: Sequence[LookupContract], held: Mapping[str, Held], streams: Mapping[str, Streamed]
) -> str:
    """Return why live look-ups cannot be repeated, a key of `replay_result.REASONS`; "" if they can."""
    if each.looks is None:
        return "not logged" if any(contract.live for contract in lookups) else ""
    for contract in lookups:
        look = each.looks.get(contract.called)
        if look is None:
            continue
        streamed = streams.get(look.view)
        reason = "live" if streamed is None else streamed.why_not(look, held[contract.called])
        if reason or streamed is None:
            return reason
        if look.pending and not _has_bounds(each, contract, held[contract.called], streamed):
            return "pending"
    return ""


def _has_bounds(each: Logged, contract: LookupContract, held: Held, streamed: Streamed) -> bool:
    assert each.parsed is not None
    assert each.looks is not None
    try:
        keys = keys_of(contract, held, each.parsed)
    except InputError:
        return True  # the look-up itself finds this error, and reports it
    return streamed.find_bounds(each.looks[contract.called], keys)
