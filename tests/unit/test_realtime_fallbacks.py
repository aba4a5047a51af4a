"""Which fallback each candidate gets, in which order, and how an answer says so."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from reader_support import write_version
from realtime_support import PRODUCT_KEY, write_packed
from release_support import make_release

from forecache.base.settings import load_settings
from forecache.declare.realtime.lookups import Default, DotProduct, OrderGiven, Precomputed, Stored
from forecache.realtime.answer.fallbacks import fallback_answer, features_of, model_answer, open_fallbacks
from forecache.realtime.answer.render import Renderer
from forecache.realtime.request.request_answer import LookupResult, ParsedRequest, RequestAnswer, StageTimes
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store import KeyColumn, KeySchema, open_store
from forecache.serve.store.manifest import Field, StalePolicy

NOW = 0.0
USERS = Stored("users", ("household_id",))
ITEMS = Stored("items", ("product_id",))
POPULAR = Stored("popular", ("product_id",), "score")
HOUSEHOLD = KeySchema((KeyColumn("household_id", "int"),))
FALLBACKS = (DotProduct(USERS, ITEMS), Precomputed(POPULAR), OrderGiven())


def request(products: list[str], household: int = 1) -> ParsedRequest:
    columns = {"household_id": np.array([household]), "product_id": np.array(products, object)}
    return ParsedRequest(len(products), columns, products, b"")


class Stores:
    """Versions of the stores of `FALLBACKS`, as the reader serves them."""

    def __init__(self, home: Path) -> None:
        self.settings = load_settings(home=str(home))
        self.served: dict[str, VersionAnswers] = {}
        self.users({1: (1.0, 2.0)})
        self.items({"a": (1.0, 0.0), "b": (0.0, 1.0)})
        self.popular({"a": 0.3, "b": 0.9, "c": 0.5})

    def users(self, rows: Mapping[Any, Any], **more: Any) -> None:
        fields = [Field("vector", "vector", 2)]
        write_packed(self.settings, "users", rows, key=HOUSEHOLD, fields=fields, **more)
        self.open("users")

    def items(self, rows: Mapping[Any, Any], **more: Any) -> None:
        write_packed(self.settings, "items", rows, key=PRODUCT_KEY, fields=[Field("vector", "vector", 2)], **more)
        self.open("items")

    def popular(self, scores: Mapping[Any, Any], **more: Any) -> None:
        rows = {key: {"score": score, "note": "x"} for key, score in scores.items()}
        fields = (Field("score", "double"), Field("note", "string"))
        write_version(self.settings.store_path, "popular", rows, key=PRODUCT_KEY, fields=fields, **more)
        self.open("popular")

    def open(self, name: str) -> None:
        self.served[name] = VersionAnswers(open_store(self.settings, name).snapshot())


def test_a_fallback_whose_store_is_in_redis_is_left_out_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stores = Stores(tmp_path)
    in_redis: Any = SimpleNamespace(snapshot=object())
    served = {**stores.served, "users": in_redis}
    fallbacks = open_fallbacks(FALLBACKS)
    for _ in range(2):
        assert answered_by_of(fallback_answer(request(["a", "b"]), fallbacks, served, NOW)) == ["precomputed"] * 2
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "The fallback that reads users is left out: this reader has that store in Redis" in told[0]
    assert "`forecache store pull users`" in told[0]


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path)


def answered_by_of(answered: RequestAnswer) -> list[str]:
    return [answered.answered_by] * len(answered.items) if answered.answered_by else list(answered.item_answered_by)


def order_of(answered: RequestAnswer) -> list[Any]:
    items = list(answered.items)
    return items if answered.order is None else [items[place] for place in answered.order]


def test_each_candidate_gets_the_highest_fallback_that_knows_it_and_higher_fallbacks_come_first(stores: Stores) -> None:
    answered = fallback_answer(request(["d", "c", "b", "a"]), open_fallbacks(FALLBACKS), stores.served, NOW)
    assert answered_by_of(answered) == ["order_given", "precomputed", "dot_product", "dot_product"]
    assert order_of(answered) == ["b", "a", "c", "d"]
    assert answered.scores is not None
    np.testing.assert_array_equal(answered.scores, [np.nan, 0.5, 2.0, 1.0])
    assert list(answered.used) == ["users", "items", "popular"]


def test_an_unknown_user_goes_down_to_last_nights_scores(stores: Stores) -> None:
    answered = fallback_answer(request(["a", "b"], household=9), open_fallbacks(FALLBACKS), stores.served, NOW)
    assert answered.answered_by == "precomputed"
    assert order_of(answered) == ["b", "a"]
    assert list(answered.used) == ["popular"]


def test_without_any_store_the_order_given_answers(stores: Stores) -> None:
    answered = fallback_answer(request(["d", "a"]), open_fallbacks(FALLBACKS), {}, NOW)
    assert answered.answered_by == "order_given"
    assert answered.scores is None
    assert order_of(answered) == ["d", "a"]


def test_vectors_of_two_nights_are_not_multiplied(stores: Stores) -> None:
    stores.items({"a": (1.0, 0.0), "b": (0.0, 1.0)}, as_of="2026-01-01")
    assert (
        fallback_answer(request(["a", "b"]), open_fallbacks(FALLBACKS), stores.served, NOW).answered_by == "precomputed"
    )


def test_vectors_of_two_lengths_are_not_multiplied(stores: Stores) -> None:
    fields = [Field("vector", "vector", 3)]
    write_packed(stores.settings, "items", {"a": (1.0, 0.0, 2.0)}, key=PRODUCT_KEY, fields=fields)
    stores.open("items")
    assert (
        fallback_answer(request(["a", "b"]), open_fallbacks(FALLBACKS), stores.served, NOW).answered_by == "precomputed"
    )


def test_a_store_that_is_too_old_for_its_policy_is_left_out(stores: Stores) -> None:
    stores.popular({"a": 0.3}, as_of="2020-01-01", policy=StalePolicy(1.0, "refuse"))
    answered = fallback_answer(request(["a"], household=9), open_fallbacks(FALLBACKS), stores.served, 1.8e9)
    assert answered.answered_by == "order_given"


def test_a_store_on_another_machine_is_left_out(stores: Stores) -> None:
    stores.served["popular"].snapshot = SimpleNamespace(get_entries=None)  # type: ignore[assignment]
    assert (
        fallback_answer(request(["a"], household=9), open_fallbacks(FALLBACKS), stores.served, NOW).answered_by
        == "order_given"
    )


@pytest.mark.parametrize("value", [None, "text", [1.0], {"a": 1.0}])
def test_what_is_no_number_in_a_store_is_no_score(stores: Stores, value: object) -> None:
    stores.popular({"a": value, "b": 1})
    answered = fallback_answer(request(["a", "b"], household=9), open_fallbacks(FALLBACKS), stores.served, NOW)
    assert answered_by_of(answered) == ["order_given", "precomputed"]


def test_a_field_that_a_store_does_not_have_leads_to_the_next_fallback(stores: Stores) -> None:
    fallbacks = (
        Precomputed(Stored("popular", ("product_id",), "gone")),
        Precomputed(Stored("popular", ("product_id",))),
    )
    answered = fallback_answer(request(["a"]), open_fallbacks((*fallbacks, OrderGiven())), stores.served, NOW)
    assert answered.answered_by == "order_given"  # the second names no field of two


def test_candidates_that_the_model_has_no_score_for_come_from_below_it(stores: Stores) -> None:
    asked = request(["a", "b", "c"])
    scores = np.array([0.1, np.nan, 0.2], np.float32)
    assert model_answer(asked, scores, LookupResult(), StageTimes()) is None
    used = {"items": stores.served["items"]}
    answered = fallback_answer(asked, open_fallbacks(FALLBACKS), stores.served, NOW, scores=scores, used=used)
    assert answered_by_of(answered) == ["model", "dot_product", "model"]
    assert order_of(answered) == ["c", "a", "b"]


def test_an_answer_is_of_one_version_even_if_a_store_is_swapped_while_the_model_is_asked(stores: Stores) -> None:
    before = stores.served["items"]
    stores.items({"a": (5.0, 0.0), "b": (0.0, 5.0)})
    scores = np.array([0.1, np.nan])
    answered = fallback_answer(
        request(["a", "b"]), open_fallbacks(FALLBACKS), stores.served, NOW, scores=scores, used={"items": before}
    )
    assert answered.answered_by == "dot_product"
    assert answered.used["items"] is stores.served["items"]


def test_equal_scores_keep_the_order_given(stores: Stores) -> None:
    answered = model_answer(request(["x", "y", "z"]), np.array([1.0, 2.0, 1.0]), LookupResult(), StageTimes())
    assert answered is not None
    assert order_of(answered) == ["y", "x", "z"]


def shown(stores: Stores, answered: RequestAnswer, **declared: Any) -> dict[str, Any]:
    release = make_release(stores.settings, lookups=(), **declared)
    body = Renderer(release).body(answered, deadline_ms=50.0, elapsed=1_000_000, late=False)
    found: dict[str, Any] = orjson.loads(body)
    return found


def test_an_answer_of_several_fallbacks_shows_each_and_how_many(stores: Stores) -> None:
    answered = fallback_answer(request(["d", "c", "b", "a"]), open_fallbacks(FALLBACKS), stores.served, NOW)
    answer = shown(stores, answered)
    assert answer["items"] == [
        {"product_id": "b", "score": 2.0, "answered_by": "dot_product"},
        {"product_id": "a", "score": 1.0, "answered_by": "dot_product"},
        {"product_id": "c", "score": 0.5, "answered_by": "precomputed"},
        {"product_id": "d", "score": None, "answered_by": "order_given"},
    ]
    assert answer["answered_by"] == "order_given"
    assert answer["answered_by_counts"] == {"order_given": 1, "precomputed": 1, "dot_product": 2}
    assert answer["stores"]["items"]["version"] == 1


@pytest.mark.parametrize(
    "items",
    [
        ['a"b', 'c,","d', "ü\n", "\\", "", "x"],
        ["1", "2"],
        [1, -2, 2**63 - 1],
        ["only"],
        [1.5, True, None],
        ["a", 1],
        ["2026-01-01", "2026-01-02"],
    ],
)
@pytest.mark.parametrize("ranked", [True, False])
def test_whatever_names_a_candidate_comes_back_as_it_was_sent(stores: Stores, items: list[Any], ranked: bool) -> None:
    scores = np.arange(len(items), dtype=np.float32)
    order = scores.argsort()[::-1] if ranked else None
    answered = RequestAnswer(items, scores if ranked else None, "model", (), order)
    answer = shown(stores, answered)
    expected = items[::-1] if ranked else items
    assert [item["product_id"] for item in answer["items"]] == expected
    assert [item["score"] for item in answer["items"]] == (scores.tolist()[::-1] if ranked else [None] * len(items))


def test_a_score_of_the_model_has_the_same_text_where_others_come_from_below(stores: Stores) -> None:
    whole = model_answer(request(["a", "c"]), np.array([0.1, 0.3], np.float32), LookupResult(), StageTimes())
    assert whole is not None
    alone = {item["product_id"]: item["score"] for item in shown(stores, whole)["items"]}
    scores = np.array([0.1, np.nan, 0.3], np.float32)
    stores.popular({"b": 0.1234567890123})
    used = {"items": stores.served["items"]}
    fallbacks = open_fallbacks((FALLBACKS[1], OrderGiven()))
    joined = fallback_answer(request(["a", "b", "c"]), fallbacks, stores.served, NOW, scores=scores, used=used)
    mixed = {item["product_id"]: item["score"] for item in shown(stores, joined)["items"]}
    assert alone == {"a": 0.1, "c": 0.3}
    assert mixed == {**alone, "b": 0.1234567890123}
    assert joined.scores is not None
    assert np.float32(mixed["a"]) == np.float32(joined.scores[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_read_back_to_the_same_number(stores: Stores, dtype: type) -> None:
    scores = np.array([0.1, -0.0, 1e-30, 1 / 3, 3.0], dtype)
    answer = shown(stores, RequestAnswer(list("abcde"), scores, "model"))
    read = np.array([item["score"] for item in answer["items"]], dtype)
    assert read.tobytes() == scores.tobytes()


def test_a_value_is_shown_under_the_name_of_the_output(stores: Stores) -> None:
    answered = RequestAnswer((), np.array([0.25]), "model", fallback_reason="", request_id='r"1')
    answer = shown(stores, answered, candidates=None, fallbacks=(Default(0.5),))
    assert answer["value"] == {"score": 0.25}
    assert answer["answered_by_counts"] == {"model": 1}
    assert answer["request_id"] == 'r"1'
    assert "items" not in answer


def test_flags_and_the_reason_are_shown_only_where_there_are_any(stores: Stores) -> None:
    plain = shown(stores, RequestAnswer(["a"], None, "order_given"))
    assert not {"fallback_reason", "warnings", "late"} & plain.keys()
    told = shown(stores, RequestAnswer(["a"], None, "order_given", fallback_reason="overload", warnings=["one"]))
    assert told["fallback_reason"] == "overload"
    assert told["warnings"] == ["one"]


def test_a_fallback_that_fails_is_logged_and_the_next_one_answers(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no")

    broken = SimpleNamespace(name="dot_product", needs_request=True, scores=fail)
    answered = fallback_answer(request(["a"]), (broken, *open_fallbacks(FALLBACKS)[1:]), stores.served, NOW)  # type: ignore[arg-type]
    assert answered.answered_by == "precomputed"
    assert "dot_product failed" in caplog.text


def test_features_of_versions_that_the_answer_does_not_name_are_not_logged_beside_it() -> None:
    before, after = object(), object()
    found = LookupResult(versions={"view": before}, features=b"1234")
    assert features_of(found, RequestAnswer((), None, "model", used={"view": before})) == b"1234"  # type: ignore[dict-item]
    assert features_of(found, RequestAnswer((), None, "precomputed")) == b"1234"
    assert features_of(found, RequestAnswer((), None, "precomputed", used={"view": after})) is None  # type: ignore[dict-item]
