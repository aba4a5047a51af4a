"""Events as the tiles that they make, in words."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from forecache.windows.fold import EventStates
from forecache.windows.layout import Bools, Ints, Layout
from forecache.windows.plan import Plan, PlanState
from forecache.windows.states import State, as_tiles, is_too_large
from forecache.windows.words import words_in


def event_states(plan: Plan, events: pa.Table) -> EventStates:
    """Each event as a tile of its own.

    Args:
        events: With the columns `Plan.reads`; a condition on a column that is null is not met.

    Raises:
        ValueError: A value is too large for a sum; see `cannot_sum`.
    """
    return EventStates(_words(plan, plan.day_states, events), _words(plan, plan.minute_states, events))


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


def _words(plan: Plan, states: Sequence[PlanState], events: pa.Table) -> Ints:
    layout = Layout(states)
    words = np.empty((events.num_rows, layout.width), np.int64)
    if not states:
        return words
    tiles = as_tiles(events, (), [state_of(state) for state in states], plan.time)
    for state in states:
        for name, place in zip(state.words, layout.places[state.name], strict=False):
            words[:, place] = words_in(tiles[name].combine_chunks())
    return words
