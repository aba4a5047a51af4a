"""Events as the tiles that they make, in words."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from forecache.windows.fold import EventStates
from forecache.windows.layout import Bools, Ints, Layout
from forecache.windows.merged import merger_of
from forecache.windows.plan import Plan, PlanState
from forecache.windows.states import State, is_too_large, words_of


def event_states(plan: Plan, events: pa.Table) -> EventStates:
    """Each event as a tile of its own.

    Args:
        events: With the columns `Plan.reads`; a condition on a column that is null is not met.

    Raises:
        ValueError: A value is too large for a sum; see `cannot_sum`.
    """
    merger = merger_of(plan)
    return EventStates(
        _words(merger.day, plan, plan.day_states, events), _words(merger.minute, plan, plan.minute_states, events)
    )


def cannot_sum(plan: Plan, events: pa.Table) -> Bools:
    """Which events have a value that no exact sum holds, 2**44 or more, bool [n]: they are no events of the view."""
    wrong = np.zeros(events.num_rows, np.bool_)
    for state in (*plan.day_states, *plan.minute_states):
        if state.aggregate == "sum":
            wrong |= is_too_large(events, state_of(state))
    return wrong


def state_of(state: PlanState) -> State:
    """The state as tables of tiles have it."""
    return State(state.aggregate, state.words, state.column, state.where)


def _words(layout: Layout, plan: Plan, states: Sequence[PlanState], events: pa.Table) -> Ints:
    words = np.empty((events.num_rows, layout.width), np.int64)
    for state in states:
        for place, column in zip(layout.places[state.name], words_of(events, state_of(state), plan.time), strict=False):
            words[:, place] = column
    return words
