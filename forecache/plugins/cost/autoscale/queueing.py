"""Waits of requests for a worker: the M/M/1 queue, with and without a fallback for requests that would be late.

Requests arrive at random (a Poisson process), and their times vary like an exponential distribution. That is
pessimistic for requests that cost the same, which wait half as long (Pollaczek and Khinchine). `patience` is the
longest wait of a request that is still answered in time. The reader does not start a request that cannot finish, so one
that would wait longer is answered by a fallback and takes no worker: a queue whose customers balk at a known wait
(Barrer 1957; Gnedenko and Kovalenko, Introduction to Queueing Theory).
"""

import math
from dataclasses import dataclass

_LARGEST_EXPONENT = 60.0


@dataclass(frozen=True)
class QueueState:
    """A queue in its steady state.

    Attributes:
        late: Share of requests that would wait longer than their patience.
        waiting: Mean number of waiting requests.
    """

    late: float
    waiting: float


def queue_with_fallback(load: float, patience: float) -> QueueState:
    """A queue that late requests do not join; it is stable under any load.

    Args:
        load: Requests that arrive in the service time of one: in Erlang.
        patience: In multiples of the service time.
    """
    if load <= 0:
        return QueueState(0.0, 0.0)
    if patience < 0:
        return QueueState(1.0, 0.0)
    slack = 1 - load
    if -slack * patience > _LARGEST_EXPONENT:  # the queue is as long as the patience permits
        return QueueState(1 - 1 / load, patience)
    # Density of the wait relative to the chance that none is needed: `load * exp(-slack * wait)` up to the patience,
    # and falling with the worker busy beyond it, where nobody joins.
    end = math.exp(-slack * patience)
    if abs(slack) < 1e-9:
        joined, moment = patience, patience**2 / 2
    else:
        joined, moment = (1 - end) / slack, (1 - end * (1 + slack * patience)) / slack**2
    whole = 1 + load * (joined + end)
    return QueueState(load * end / whole, load**2 * moment / whole)


def queue_without_fallback(load: float, patience: float) -> QueueState:
    """The M/M/1 queue, whose requests all wait; under a load of 1 or more it grows without bound."""
    if load <= 0:
        return QueueState(0.0, 0.0)
    if load >= 1:
        return QueueState(1.0, math.inf)
    slack = 1 - load
    return QueueState(load * math.exp(-slack * patience) if patience >= 0 else 1.0, load**2 / slack)
