"""Split of interactions into training and test: by time, or at random within each user."""

from datetime import date, timedelta
from typing import NamedTuple

import numpy as np

from forecache.base.errors import InputError, SettingsError
from forecache.plugins.recommend.interactions import Interactions


class TrainTestSplit(NamedTuple):
    """Interactions for training and for the test; both have the vocabularies of all interactions."""

    train: Interactions
    test: Interactions


def split_by_day(interactions: Interactions, day: date, *, num_days: int) -> TrainTestSplit:
    """Split by a day: earlier ones are for training, as for a nightly run, and it and the days after are the test.

    Args:
        num_days: Days of the test, the first included. Later interactions are in neither.

    Raises:
        InputError: A side is empty.
    """
    if num_days < 1:
        raise SettingsError(f"A test of {num_days} days has none.", remedy="Give num_days=1 or more.")
    found = TrainTestSplit(
        interactions.select_before(day), interactions.select_between(day, day + timedelta(days=num_days - 1))
    )
    for side, words in ((found.train, f"before {day}"), (found.test, f"in the {num_days} days from {day} on")):
        if not len(side):
            raise InputError(f"There are no interactions {words}.", remedy="Choose another day.")
    return found


def split_by_user(interactions: Interactions, *, test_share: float, seed: int) -> TrainTestSplit:
    """Put a random share of each user's items into the test, rounded (half to even), and the others into training.

    All interactions of a pair of user and item are on the same side. It depends on the pairs and the seed, not on the
    order of rows. A split that ignores time flatters a model: use it only to compare with published figures.

    Args:
        test_share: In (0, 1).
    """
    if not 0 < test_share < 1:
        raise SettingsError(f"A test share of {test_share} is not between 0 and 1.", remedy="Give one such as 0.25.")
    pair = interactions.users.astype(np.int64) * interactions.num_items + interactions.items
    pairs, of_row = np.unique(pair, return_inverse=True)
    users = pairs // max(1, interactions.num_items)
    order = np.lexsort((np.random.default_rng(seed).random(len(pairs)), users))
    counts = np.bincount(users, minlength=interactions.num_users)
    # Users are ascending in `pairs`, so a user's places are the same before and after the shuffle.
    place = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    in_test = np.zeros(len(pairs), bool)
    in_test[order] = place < np.rint(counts * test_share)[users]
    return TrainTestSplit(interactions.select(~in_test[of_row]), interactions.select(in_test[of_row]))
