"""What a request may hold, and what is said of one that is refused."""

from typing import Any

import numpy as np
import orjson
import pytest
from release_support import CANDIDATES, a_request, make_release

from forecache.base.settings import Settings, load_settings
from forecache.declare.realtime.request import Candidates, RequestField
from forecache.kit.http.problems import Problem
from forecache.realtime.release.format import Release
from forecache.realtime.request.request_parser import RequestParser

ONE = Candidates((RequestField("product_id", "bigint"),), most=5)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load_settings(home=str(tmp_path_factory.mktemp("home")))


def parser(settings: Settings, **declared: Any) -> RequestParser:
    release: Release = make_release(settings, **declared)
    return RequestParser(release)


def refused(parser: RequestParser, request: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        parser.parse(request if isinstance(request, bytes) else orjson.dumps(request))
    return caught.value


def asked(**changes: Any) -> dict[str, Any]:
    return {**orjson.loads(a_request()), **changes}


def test_the_fields_become_columns_of_their_types_and_defaults_fill_what_is_left_out(settings: Settings) -> None:
    request = parser(settings).parse(
        orjson.dumps({"household_id": 7, "candidates": [{"product_id": "a"}, {"product_id": "ü", "price": 2}]})
    )
    assert request.length == 2
    assert request.columns["household_id"].tolist() == [7]
    assert request.columns["store_id"].tolist() == [0]
    assert request.columns["price"].tolist() == [1.0, 2.0]
    assert request.columns["price"].dtype == np.float64
    assert request.columns["product_id"].tolist() == ["a", "ü"]
    assert list(request.items) == ["a", "ü"]


def test_candidates_of_one_field_may_be_plain_values_or_objects(settings: Settings) -> None:
    one = parser(settings, candidates=ONE, lookups=())
    plain = one.parse(orjson.dumps({"household_id": 1, "candidates": [3, 1]}))
    objects = one.parse(orjson.dumps({"household_id": 1, "candidates": [{"product_id": 3}, {"product_id": 1}]}))
    assert plain.columns["product_id"].tolist() == objects.columns["product_id"].tolist() == [3, 1]
    assert list(plain.items) == list(objects.items) == [3, 1]
    with pytest.raises(Problem) as refused:
        one.parse(orjson.dumps({"household_id": 1, "candidates": [{"product_id": 3}, 1]}))
    assert refused.value.detail == (
        "The candidate at place 1 is a number; if one is an object, each is an object with product_id."
    )


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        (b'{"household_id": NaN}', 400, "not JSON"),
        ([1], 400, "an array; send an object"),
        (asked(household_id=None), 400, "'household_id' is missing"),
        ({"candidates": []}, 400, "'household_id' is missing"),
        (asked(household_id="1"), 400, "'household_id' is '1'"),
        (asked(household_id=1.0), 400, "'household_id' is 1.0"),
        (asked(household_id=True), 400, "'household_id' is True"),
        (asked(household_id=2**63), 400, "'household_id' is 9223372036854775808"),
        (asked(colour="red"), 400, "unknown field 'colour'"),
        (asked(candidates=None), 400, "'candidates' is null"),
        (asked(candidates={}), 400, "'candidates' is an object"),
        (asked(candidates=["a"]), 400, "place 0 is text"),
        (asked(candidates=[{"product_id": "a"}, 3]), 400, "place 1 is a number"),
        (asked(candidates=[{"price": 1.0}]), 400, "'product_id' is missing"),
        (asked(candidates=[{"product_id": "a"}, {"product_id": 1}]), 400, "At place 1 of the candidates: The request"),
        (asked(candidates=[{"product_id": 1}]), 400, "'product_id' is 1"),
        (asked(candidates=[{"product_id": "a", "prize": 1}]), 400, "unknown field 'prize'"),
        (asked(candidates=[{"product_id": "a", "price": True}]), 400, "'price' is True"),
        (asked(candidates=[{"product_id": "a"}] * 201), 422, "201 candidates; the most is 200"),
        (asked(request_id=5), 400, "'request_id' is '5'"),
        (asked(request_id="x" * 129), 400, "at most 128"),
    ],
)
def test_a_bad_request_is_refused_with_the_field_and_the_value(
    settings: Settings, request_: Any, status: int, said: str
) -> None:
    problem = refused(parser(settings), request_)
    assert problem.kind.status == status
    assert said in problem.detail


def test_unknown_fields_are_ignored_where_the_declaration_says_so(settings: Settings) -> None:
    lenient = parser(settings, on_unknown="ignore")
    request = lenient.parse(orjson.dumps(asked(colour="red", candidates=[{"product_id": "a", "prize": 1}])))
    assert request.length == 1


def test_numbers_that_are_not_finite_are_refused_unless_the_declaration_accepts_them(settings: Settings) -> None:
    values = {"product_id": ["a"], "price": np.array([np.nan])}
    with pytest.raises(Problem, match="'price' has a number that is not finite"):
        parser(settings).parse_values({"household_id": 1}, values)
    request = parser(settings, on_nan="accept").parse_values({"household_id": 1}, values)
    assert np.isnan(request.columns["price"]).all()


def test_a_list_without_candidates_is_a_request(settings: Settings) -> None:
    assert parser(settings).parse(orjson.dumps(asked(candidates=[]))).length == 0


def test_the_names_of_candidates_are_read_alone_when_there_is_no_time_for_more(settings: Settings) -> None:
    body = orjson.dumps(asked(household_id="no number"))
    request, members = parser(settings).parse_candidates_only(body)
    assert (request.items, request.length, request.request_id, request.body) == (["a", "b", "c"], 3, "", body)
    assert members["household_id"] == "no number"
    one = parser(settings, candidates=ONE, lookups=())
    request, _ = one.parse_candidates_only(b'{"candidates":[3,1],"request_id":"r"}')
    assert (request.items, request.request_id) == ([3, 1], "r")
    assert one.parse_candidates_only(b'{"candidates":[]}')[0].length == 0
    with pytest.raises(Problem, match="'request_id' is '5'"):
        one.parse_candidates_only(b'{"candidates":[3],"request_id":5}')
    with pytest.raises(Problem, match="the most is 5"):
        one.parse_candidates_only(b'{"candidates":[1,2,3,4,5,6]}')


def test_a_field_of_the_request_may_itself_be_called_request_id(settings: Settings) -> None:
    own = parser(settings, request=(RequestField("request_id", "bigint"),), candidates=CANDIDATES, lookups=())
    assert own.parse(b'{"request_id":5,"candidates":[]}').columns["request_id"].tolist() == [5]
