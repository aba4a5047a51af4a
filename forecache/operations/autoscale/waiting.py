"""How long requests wait for a worker: the M/M/c queue, with and without requests that are not started when too late.

Requests arrive at random (a Poisson process), and their times vary like an exponential distribution. That is
pessimistic for requests that cost the same, which wait half as long (Pollaczek and Khinchine). `patience` is how long
a request may wait and still be answered in time. The reader does not start what cannot finish, so what would wait
longer is answered from a lower rung and takes no worker: a queue whose customers balk at a known wait (Barrer 1957;
Gnedenko and Kovalenko, Introduction to Queueing Theory).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

_LARGEST_EXPONENT = 60.0


@dataclass(frozen=True)
class Waiting:
    """A queue in its steady state.

    Attributes:
        late: Share of requests that would wait longer than their patience.
        waiting: Mean number of requests that wait.
    """

    late: float
    waiting: float


def with_ladder(load: float, servers: int, patience: float) -> Waiting:
    """A queue that late requests do not join; it is stable under any load.

    Args:
        load: Requests that arrive in the time of one: in Erlang.
        servers: Workers that share the queue.
        patience: In times of one request.
    """
    if load <= 0:
        return Waiting(0.0, 0.0)
    if patience < 0:
        return Waiting(1.0, 0.0)
    slack = servers - load
    if -slack * patience > _LARGEST_EXPONENT:  # the queue is as long as patience lets it be
        return Waiting(1 - servers / load, servers * patience)
    # Density of the wait relative to the chance that none is needed: `rising * exp(-slack * wait)` up to the patience,
    # and falling with all servers busy beyond it, where nobody joins.
    rising = load * _blocked(load, servers - 1)
    end = math.exp(-slack * patience)
    if abs(slack) < 1e-9:
        joined, moment = patience, patience**2 / 2
    else:
        joined, moment = (1 - end) / slack, (1 - end * (1 + slack * patience)) / slack**2
    whole = 1 + rising * (joined + end / servers)
    return Waiting(rising * end / servers / whole, load * rising * moment / whole)


def without_ladder(load: float, servers: int, patience: float) -> Waiting:
    """The M/M/c queue, whose requests all wait; under a load of `servers` or more it grows without bound."""
    if load <= 0:
        return Waiting(0.0, 0.0)
    if load >= servers:
        return Waiting(1.0, math.inf)
    blocked = _blocked(load, servers)
    wait = blocked / (1 - load / servers * (1 - blocked))  # Erlang C: the chance to wait at all
    slack = servers - load
    return Waiting(wait * math.exp(-slack * max(0.0, patience)) if patience >= 0 else 1.0, wait * load / slack)


def _blocked(load: float, servers: int) -> float:
    """Erlang B: the chance that all servers are busy where nobody waits."""
    return _erlang_b(round(load, 4), servers)


@lru_cache(maxsize=65_536)
def _erlang_b(load: float, servers: int) -> float:
    blocked = 1.0
    for busy in range(1, servers + 1):
        blocked = load * blocked / (busy + load * blocked)
    return blocked
