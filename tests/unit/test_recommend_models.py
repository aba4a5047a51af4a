"""Recommenders against values worked out by hand, repeated, and with bad input."""

from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from forecache.base.errors import InputError, SettingsError
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.models import (
    Als,
    Ease,
    Factors,
    Habits,
    Popularity,
    RecommenderModel,
    RepeatPurchase,
    TwoTowers,
    WithFallback,
)

LAST = date(2024, 3, 1)
NONE = np.float32(-np.inf)


def interactions(rows: list[tuple[Any, ...]]) -> Interactions:
    """Rows of user, item, weight, days before LAST."""
    who, what, n, age = zip(*rows, strict=True)
    days = [LAST - timedelta(days=each) for each in age]
    return Interactions.from_table(
        pa.table({"who": who, "what": what, "n": pa.array(n, pa.float64()), "day": days}),
        user="who", item="what", weight="n", time="day",
    )  # fmt: skip


def clusters(seed: int = 0, *, users: int = 60, items: int = 20) -> Interactions:
    """Even users take even items, odd ones odd items."""
    rng = np.random.default_rng(seed)
    rows = {(u, int(i) * 2 + u % 2) for u in range(users) for i in rng.choice(items // 2, 5, replace=False)}
    return interactions([(u, i, 1.0, (u + i) % 30) for u, i in sorted(rows)])


BASKETS = interactions([("a", 1, 2, 0), ("a", 1, 1, 10), ("a", 2, 1, 20), ("b", 2, 4, 0), ("b", 3, 1, 0)])
EVERY: list[RecommenderModel] = [
    Popularity(half_life_days=30.0),
    RepeatPurchase(),
    Habits(half_lives_days=(5.0, 50.0)),
    Ease(l2=10.0, dropout=0.3, weight_power=0.5, activity_power=0.2),
    Als(factors=8, regularization=1.0, iterations=5),
    TwoTowers(factors=8, hidden=8, epochs=3, batch_users=16),
    WithFallback(RepeatPurchase(half_life_days=None)),
]
NAMES = [type(each).__name__ for each in EVERY]


def test_popularity_sums_weights_that_halve_with_each_half_life() -> None:
    fitted = Popularity(half_life_days=10).fit(BASKETS)
    scores = fitted.score(fitted.history(BASKETS))
    np.testing.assert_allclose(scores, np.tile([2 + 0.5, 0.25 + 4, 1], (2, 1)))
    assert Popularity().fit(BASKETS).totals.tolist() == [3, 5, 1]
    assert fitted.can_rank(csr_matrix((3, 3))).all()
    assert fitted.similar(np.array([0], np.int32)) is None


def test_habits_add_decayed_counts_and_popularity_and_rank_own_items_only() -> None:
    fitted = Habits(half_lives_days=(10.0, 20.0), popularity=0.5).fit(BASKETS)
    history = fitted.history(BASKETS)
    # By half-lives of 10 and 20 days: purchases 0 and 10 days ago; 20 days ago; two of today.
    counts = np.array([[1 + 0.5 + 1 + 0.5**0.5, 0.25 + 0.5, 0], [0, 2, 2]])
    with np.errstate(divide="ignore"):
        expected = np.log(counts) + 0.5 * np.log1p([3, 5, 1])
    np.testing.assert_allclose(fitted.score(history), expected, rtol=1e-6)


def test_repeat_purchase_counts_purchases_by_recency_and_ranks_own_items_only() -> None:
    fitted = RepeatPurchase(half_life_days=10).fit(BASKETS)
    history = fitted.history(BASKETS)
    np.testing.assert_allclose(fitted.score(history), [[1.5, 0.25, NONE], [NONE, 1, 1]])
    lists = np.array([[0, 2], [1, -1]], np.int32)
    assert fitted.reasons(history, lists).tolist() == [[0, -1], [1, -1]]
    assert fitted.can_rank(csr_matrix((2, 3), dtype=np.float32)).tolist() == [False, False]


def test_repeat_purchase_ranks_the_oldest_purchase_too() -> None:
    found = interactions([("a", 1, 1, 0), ("a", 2, 1, 100_000)])
    fitted = RepeatPurchase(half_life_days=1).fit(found)
    scores = fitted.score(fitted.history(found))[0]
    assert scores[0] == 1
    assert 0 < scores[1] < 1e-30


def naive_ease(model: Ease, matrix: np.ndarray) -> np.ndarray:
    """Steck 2019, as it is written: B = I - P diagMat(1 / diag(P))."""
    x = np.where(matrix > 0, np.where(matrix > 0, matrix, 1) ** model.weight_power, 0).astype(np.float64)
    n = np.maximum((matrix > 0).sum(axis=1), 1)
    scaled = x * ((n / n.mean()) ** -model.activity_power)[:, None]
    gram = scaled.T @ scaled
    gram += np.diag(np.diag(gram)) * model.dropout / (1 - model.dropout) + model.l2 * np.eye(len(gram))
    inverse = np.linalg.inv(gram)
    return np.eye(len(gram)) - inverse @ np.diag(1 / np.diag(inverse))


@pytest.mark.parametrize("columns", [3, 1024])
@pytest.mark.parametrize(
    "model", [Ease(l2=2.0), Ease(l2=0.5, dropout=0.4, weight_power=0.5, activity_power=0.3), Ease(weight_power=1.0)]
)
def test_ease_equals_its_closed_form(model: Ease, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forecache.plugins.recommend.models.ease._COLUMNS", columns)
    rng = np.random.default_rng(4)
    rows = [(u, i, float(rng.integers(1, 6)), 0) for u in range(40) for i in rng.choice(17, 6, replace=False)]
    found = interactions(rows)
    fitted = model.fit(found)
    expected = naive_ease(model, found.matrix().toarray())
    np.testing.assert_allclose(fitted.weights, expected, atol=2e-7)
    assert fitted.weights.dtype == np.float32
    assert not fitted.weights.diagonal().any()
    history = fitted.history(found)
    np.testing.assert_allclose(fitted.score(history), history.toarray() @ expected, rtol=1e-4, atol=1e-5)


def test_ease_of_two_items_is_their_shrunk_regression() -> None:
    found = interactions([(0, 0, 1, 0), (0, 1, 1, 0), (1, 0, 1, 0)])
    weights = Ease(l2=1.0).fit(found).weights  # G + I = [[3, 1], [1, 2]]
    np.testing.assert_allclose(weights, [[0, 1 / 3], [1 / 2, 0]], rtol=1e-6)


def test_the_reason_of_ease_is_the_own_item_that_contributed_most(monkeypatch: pytest.MonkeyPatch) -> None:
    found = clusters()
    fitted = Ease(l2=5.0).fit(found)
    history = fitted.history(found)
    history = csr_matrix(np.vstack([history.toarray(), np.zeros((2, 20))]).astype(np.float32))
    lists = np.random.default_rng(1).integers(-1, 20, (history.shape[0], 6)).astype(np.int32)
    expected = np.full(lists.shape, -1)
    for row, column in np.argwhere(lists >= 0):
        gains = history[row].toarray()[0] * fitted.weights[:, lists[row, column]]
        if gains.max() > 0:
            expected[row, column] = gains.argmax()
    assert (expected >= 0).any()
    for pairs in (1 << 22, 60):
        monkeypatch.setattr("forecache.plugins.recommend.models.ease._REASON_PAIRS", pairs)
        np.testing.assert_array_equal(fitted.reasons(history, lists), expected)


def test_ease_refuses_more_items_than_it_may_take_before_it_takes_memory() -> None:
    with pytest.raises(InputError, match=r"at most max_items=2 items, and there are 3, which need 0\.0 GiB.*Als"):
        Ease(max_items=2).fit(BASKETS)


def test_items_that_training_did_not_see_cannot_be_ranked() -> None:
    found = interactions([("a", 1, 1, 9), ("a", 2, 1, 9), ("b", 1, 1, 9), ("b", 3, 1, 0)])
    train = found.select_before(LAST)
    for model in (Ease(l2=1.0), Als(factors=2), TwoTowers(factors=2, hidden=2, epochs=1)):
        fitted = model.fit(train, seed=0)
        scores = fitted.score(fitted.history(found))
        assert np.isneginf(scores[:, 2]).all(), model
        assert np.isfinite(scores[:, :2]).all(), model
        assert fitted.known_items.tolist() == [True, True, False]


def test_als_solves_a_users_vector_by_the_formula_of_the_paper() -> None:
    found = clusters()
    model = Als(factors=6, regularization=0.7, alpha=3.0, weight_power=1.0)
    fitted = model.fit(found, seed=1)
    history = fitted.history(found)
    y = fitted.item_vectors.astype(np.float64)
    for user in (0, 7):
        confidence = 1 + 3.0 * history[user].toarray()[0].astype(np.float64)
        wanted = (history[user].toarray()[0] > 0).astype(np.float64)
        left = y.T @ np.diag(confidence) @ y + 0.7 * np.eye(6)
        expected = np.linalg.solve(left, y.T @ (confidence * wanted))
        np.testing.assert_allclose(fitted.user_vectors(history)[user], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "model", [Ease(l2=5.0), Als(factors=4, regularization=0.1), TwoTowers(epochs=60, batch_users=16)]
)
def test_models_learn_which_items_go_together(model: RecommenderModel) -> None:
    found = clusters()
    fitted = model.fit(found, seed=3)
    history = fitted.history(found)
    scores = np.where(history.toarray() > 0, NONE, fitted.score(history))
    best = np.argsort(-scores, axis=1)[:, :3]
    assert (best % 2 == (np.arange(60) % 2)[:, None]).mean() > 0.97
    near = fitted.similar(np.arange(20, dtype=np.int32))
    assert near is not None
    assert np.isneginf(near.diagonal()).all()
    assert (near.argmax(axis=1) % 2 == np.arange(20) % 2).all()


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_the_same_seed_gives_the_same_model_to_the_bit(model: RecommenderModel) -> None:
    found = clusters()
    one, again = model.fit(found, seed=5), model.fit(found, seed=5)
    history = one.history(found)
    lists = np.tile(np.arange(4, dtype=np.int32), (history.shape[0], 1))
    assert again.item_keys.equals(one.item_keys)
    assert (again.history(found) != history).nnz == 0
    np.testing.assert_array_equal(again.score(history), one.score(history))
    np.testing.assert_array_equal(again.reasons(history, lists), one.reasons(history, lists))


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_scores_go_into_the_callers_array_and_rows_do_not_depend_on_their_block(model: RecommenderModel) -> None:
    found = clusters()
    fitted = model.fit(found, seed=5)
    history = fitted.history(found)
    whole = fitted.score(history)
    assert whole.dtype == np.float32
    out = np.full((10, 20), np.nan, np.float32)
    assert fitted.score(history[5:15], out=out) is out
    np.testing.assert_allclose(out, whole[5:15], rtol=1e-5, atol=1e-6)
    assert fitted.score(history[:0]).shape == (0, 20)
    if isinstance(fitted, Factors):
        np.testing.assert_allclose(fitted.user_vectors(history) @ fitted.item_vectors.T, whole, rtol=1e-5, atol=1e-6)


def test_another_seed_gives_another_model() -> None:
    found = clusters()
    for model in (each for each in EVERY if isinstance(each, Als | TwoTowers)):
        one, other = (model.fit(found, seed=seed) for seed in (1, 2))
        assert isinstance(one, Factors)
        assert isinstance(other, Factors)
        assert not np.array_equal(one.item_vectors, other.item_vectors)


def test_a_history_of_another_night_is_read_in_the_models_codes() -> None:
    fitted = Popularity().fit(BASKETS)
    later = interactions([("c", 3, 1, 0), ("d", 9, 1, 0), ("d", 1, 2, 0)])
    assert fitted.history(later).toarray().tolist() == [[0, 0, 1], [2, 0, 0]]


def test_a_fallback_ranks_for_users_without_history_and_behind_the_models_items() -> None:
    fitted = WithFallback(RepeatPurchase(half_life_days=None)).fit(BASKETS, seed=0)
    history = csr_matrix(np.array([[2, 1, 0], [0, 0, 3], [0, 0, 0]], np.float32))
    scores = fitted.score(history)
    assert np.argsort(-scores, axis=1, kind="stable").tolist() == [[0, 1, 2], [2, 1, 0], [1, 0, 2]]
    assert scores[0, :2].tolist() == [2, 1]
    assert np.isfinite(scores).all()
    assert fitted.can_rank(history).all()
    assert fitted.reasons(history, np.array([[0], [1], [1]], np.int32)).tolist() == [[0], [-1], [-1]]


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)), min_size=6, max_size=6), min_size=1, max_size=4
    ),
    st.lists(st.integers(0, 50), min_size=6, max_size=6),
)
def test_a_fallback_never_changes_the_models_order(rows: list[list[float | None]], popular: list[int]) -> None:
    from forecache.plugins.recommend.models.popularity import _fill_from_fallback

    scores = np.array([[NONE if value is None else value for value in row] for row in rows], np.float32)
    fallback = np.tile(np.array(popular, np.float32), (len(rows), 1))
    filled = _fill_from_fallback(scores, fallback)
    assert np.isfinite(filled).all()
    for row, before in zip(filled, scores, strict=True):
        known = np.isfinite(before)
        np.testing.assert_array_equal(row[known], before[known])
        if known.any() and not known.all():
            assert row[~known].max() < row[known].min()
        behind = np.flatnonzero(~known)
        for one in behind:
            for other in behind:
                assert (row[one] > row[other]) == (popular[one] > popular[other])


@pytest.mark.parametrize("model", EVERY, ids=NAMES)
def test_nothing_to_learn_from_is_refused(model: RecommenderModel) -> None:
    for nothing in (BASKETS.select_before(date(2000, 1, 1)), interactions([("a", 1, 0, 0)])):
        with pytest.raises(InputError, match="has no interactions to learn from"):
            model.fit(nothing, seed=0)


@pytest.mark.parametrize(
    ("declare", "said"),
    [
        (lambda: Popularity(half_life_days=0.0), r"`Popularity` has half_life_days=0\.0"),
        (lambda: RepeatPurchase(half_life_days="week"), "half_life_days='week'"),  # type: ignore[arg-type]
        (lambda: Ease(l2=0.0), r"`Ease` has l2=0\.0\. Give more than 0"),
        (lambda: Ease(dropout=1.0), r"dropout=1\.0"),
        (lambda: Ease(weight_power=-1.0), r"weight_power=-1\.0\. It is from 0 to 2"),
        (lambda: Als(factors=0), "`Als` has factors=0"),
        (lambda: Als(factors=2.5), r"factors=2\.5"),  # type: ignore[arg-type]
        (lambda: Als(regularization=float("nan")), "regularization=nan"),
        (lambda: TwoTowers(batch_users=0), "`TwoTowers` has batch_users=0"),
        (lambda: TwoTowers(target_share=1.0), "target_share"),
        (lambda: WithFallback("ease"), "`WithFallback` has model='ease'"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_a_field_cannot_take_is_refused_when_declared(declare: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        declare()


def test_two_towers_that_diverge_are_refused() -> None:
    with pytest.raises(InputError, match="vectors that are no numbers.*learning_rate"):
        TwoTowers(learning_rate=1e30, epochs=3).fit(clusters(), seed=0)
