"""A factor model with a fallback is ranked by its vectors, and gives the lists that all scores would give."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from forecache.plugins.recommend import lists
from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.models import Als, Popularity, WithFallback
from forecache.plugins.recommend.top_k import top_k

rng = np.random.default_rng(5)
NUM_USERS, NUM_ITEMS = 300, 120
PAIRS = sorted(
    {(int(u), int(i)) for u, i in zip(rng.integers(0, 280, 4000), rng.zipf(1.4, 4000), strict=True) if i < 120}
)
TABLE = pa.table({"u": [u for u, _ in PAIRS], "i": [i for _, i in PAIRS], "d": [date(2026, 1, 1)] * len(PAIRS)})
KNOWN = Interactions.from_table(TABLE, user="u", item="i", time="d").recode(
    item_keys=pa.array(range(NUM_ITEMS), pa.int64()), user_keys=pa.array(range(NUM_USERS), pa.int64())
)


@pytest.mark.parametrize("limited", [False, True])
def test_lists_are_those_of_all_scores(limited: bool) -> None:
    fitted = WithFallback(Als(factors=6, iterations=4), Popularity()).fit(KNOWN, seed=1)
    history = fitted.history(KNOWN)
    filters = Filters(
        seen=history,
        region_of_user=rng.integers(0, 2, NUM_USERS),
        available_in=rng.random((2, NUM_ITEMS)) < 0.7,
        group_of_item=np.arange(NUM_ITEMS) % 7 if limited else None,
        most_of_group=3 if limited else None,
    )

    def score(first: int, last: int, out: np.ndarray) -> None:
        fitted.score(history[first:last], out=out)

    k = 25
    expected = list(top_k(score, NUM_USERS, NUM_ITEMS, k, filters=filters))
    found = list(lists.rank(fitted, history, k, filters))
    for one, other in zip(found, expected, strict=True):
        assert one.first == other.first
        np.testing.assert_array_equal(one.items, other.items)
        there = one.items >= 0
        np.testing.assert_allclose(one.scores[there], other.scores[there], rtol=1e-4, atol=1e-5)
    assert (np.concatenate([part.items[:, 0] for part in found]) >= 0).all(), "users without history have a list too"


def test_only_users_whom_the_model_cannot_rank_need_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = WithFallback(Als(factors=6, iterations=4), Popularity()).fit(KNOWN, seed=1)
    history = fitted.history(KNOWN)
    rows = []
    monkeypatch.setattr(type(fitted), "score", lambda self, part, *, out: rows.append(part.shape[0]) or out.fill(0))
    list(lists.rank(fitted, history, 5, Filters()))
    assert sum(rows) == int((np.diff(history.indptr) == 0).sum())
