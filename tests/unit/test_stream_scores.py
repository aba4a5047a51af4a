"""Scores of several events in one call: the bits of each alone, whatever transform and model do with rows."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from forecache.base.errors import InputError
from forecache.declare.realtime.request_rows import RowsBuilder, apply_transform
from forecache.plugins.stream_answers.release_answerer import EventScorer, EventScores, RequestColumns
from forecache.realtime.release.load import LoadedRelease

_ASKED = SimpleNamespace(request=(), candidates=None, lookups=(SimpleNamespace(called="view", columns=("a", "b")),))
Transform = Callable[[Any], Any]


class _Release:
    """A release of a transform and of weights, which counts the calls of both."""

    def __init__(self, transform: Transform, model: Callable[[Any], Any] | None = None) -> None:
        self.builder = RowsBuilder(cast(Any, _ASKED))
        self.release = SimpleNamespace(features=("a", "b"))
        self.calls = 0
        self._transform, self._model = transform, model or (lambda features: features.sum(axis=1))

    def features_of(self, rows: Any) -> Any:
        self.calls += 1
        return apply_transform(self._transform, "test:transform", rows, 2)

    def scores_of(self, features: Any) -> Any:
        return self._model(features)


def _by_row(rows: Any) -> Any:
    return np.column_stack([np.log1p(rows["amount"]), rows.view("view")[:, 0] * rows.found("view")])


def _to_the_largest(rows: Any) -> Any:
    return np.column_stack([rows["amount"] / rows["amount"].max(), rows.view("view")[:, 1]])


def _of_many_rows(features: Any) -> Any:
    """As matrix libraries add up in another order for several rows."""
    return (features[:, 0] + features[:, 1]) * np.float32(1 if len(features) == 1 else 1 + 1e-7)


def _asked(n: int, seed: int, unknown: int | None = None) -> RequestColumns:
    random = np.random.default_rng(seed)
    amount = random.gamma(2.0, 30.0, n)

    def value(name: str, place: int) -> Any:
        if place == unknown:
            raise InputError("amount is null")
        return {"amount": amount}[name][place : place + 1]

    views = {"view": random.normal(size=(n, 2)).astype(np.float32)}
    columns = {"amount": amount} if unknown is None else None
    return RequestColumns(n, ("amount",), value, columns, views, {"view": random.random(n) < 0.8})


def _alone(transform: Transform, model: Callable[[Any], Any] | None, asked: RequestColumns) -> Any:
    release = _Release(transform, model)
    found = []
    for place in range(asked.length):
        part = slice(place, place + 1)
        rows = release.builder.build_rows(
            SimpleNamespace(length=1, values={"amount": asked.value("amount", place)}),  # type: ignore[arg-type]
            {"view": asked.views["view"][part]},
            {"view": asked.found["view"][part]},
        )
        found.append(release.scores_of(release.features_of(rows))[0])
    return np.array(found, np.float64)


def _scorer(release: _Release) -> EventScorer:
    return EventScorer(cast(LoadedRelease, release))


@pytest.mark.parametrize("model", [None, _of_many_rows])
@pytest.mark.parametrize("transform", [_by_row, _to_the_largest])
def test_each_event_has_the_bits_that_it_has_alone(transform: Transform, model: Any) -> None:
    scorer = _scorer(_Release(transform, model))
    for seed, n in enumerate([1, 7, 64, 100, 300, 1, 33, 500, 2, 2, 120]):
        asked = _asked(n, seed)
        scored = scorer.score(asked)
        assert scored.values.tobytes() == _alone(transform, model, asked).tobytes()
        assert scored.is_known.all()
        assert scored.used.known.all()
        of_features = _alone(transform, lambda features: (features * np.float32([3, 5])).sum(axis=1), asked)
        again = [(features * np.float32([3, 5])).sum() for features in scored.used.matrix]
        assert np.array(again, np.float64).tobytes() == of_features.tobytes()


def test_what_treats_rows_apart_is_called_once_for_a_batch_after_its_trial() -> None:
    release = _Release(_by_row)
    scorer = _scorer(release)
    scorer.score(_asked(256, 0))
    assert release.calls == 257
    scorer.score(_asked(200, 1))
    assert release.calls == 258
    scorer.score(_asked(100, 2))
    assert release.calls == 260, "one event in 256 goes on being compared"


def test_no_more_events_are_computed_both_ways_than_the_trial_takes() -> None:
    release = _Release(_by_row)
    asked = _asked(2000, 0)
    assert _scorer(release).score(asked).values.tobytes() == _alone(_by_row, None, asked).tobytes()
    assert release.calls == 1 + 256


def test_a_transform_that_mixes_rows_later_is_found_and_asked_alone_from_then_on() -> None:
    mixes = False

    def transform(rows: Any) -> Any:
        return (_to_the_largest if mixes else _by_row)(rows)

    release = _Release(transform)
    scorer = _scorer(release)
    scorer.score(_asked(256, 0))
    mixes = True
    asked = _asked(300, 1)
    assert scorer.score(asked).values.tobytes() == _alone(_to_the_largest, None, asked).tobytes()
    before = release.calls
    scorer.score(_asked(50, 2))
    assert release.calls == before + 50


def test_an_event_that_fails_keeps_no_other_from_its_score() -> None:
    def transform(rows: Any) -> Any:
        if (rows["amount"] > 200).any():
            raise ValueError("too much")
        return _by_row(rows)

    scorer = _scorer(_Release(transform))
    for seed in range(3):
        asked = _asked(300, seed)
        assert asked.columns is not None
        fails = asked.columns["amount"] > 200
        assert 0 < fails.sum() < 300
        scored: EventScores = scorer.score(asked)
        assert (scored.failed, list(scored.is_known)) == (fails.sum(), list(~fails))
        assert "too much" in scored.failure
        assert (scored.used.known == ~fails).all()


def test_features_that_a_model_failed_on_are_known() -> None:
    def model(features: Any) -> Any:
        raise ValueError("no model")

    asked = _asked(5, 0)
    scored = _scorer(_Release(_by_row, model)).score(asked)
    assert (scored.failed, scored.used.known.all()) == (5, True)
    assert scored.used.matrix.tobytes() == _scorer(_Release(_by_row)).score(asked).used.matrix.tobytes()


def test_an_event_without_a_value_is_the_only_one_without_a_score() -> None:
    scored = _scorer(_Release(_by_row)).score(_asked(5, 0, unknown=3))
    assert list(scored.is_known) == [True, True, True, False, True]
    assert (scored.failed, scored.failure) == (1, "amount is null")
