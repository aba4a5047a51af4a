"""The declaration of a request log, which keys are in its sample, and what follows from a record."""

import numpy as np
import pytest
from ranking_code import transforms

from forecache.base.errors import InputError, SettingsError
from forecache.declare import Candidates, Feature, FunctionModel, Log, OrderGiven, Realtime, RequestField
from forecache.declare.realtime.request_rows import features_of, order_of, scores_of
from forecache.realtime.log.answer_log import BUCKETS, Sampler, bucket_of
from forecache.realtime.request.request_answer import ParsedRequest
from forecache.serve.store.keys import KeyColumn, KeySchema, encode_columns

FIELDS = (RequestField("household_id", "bigint"), RequestField("city", "string"), RequestField("weight", "double"))


KINDS = {"household_id": "int", "city": "string", "day": "date"}


def model(log: Log) -> Realtime:
    return Realtime(
        "search",
        request=FIELDS,
        candidates=Candidates((RequestField("product_id", "string"),)),
        transform=transforms.rank,
        features=(Feature("x"),),
        model=FunctionModel(transforms.two_thirds),
        fallbacks=(OrderGiven(),),
        log=log,
    )


def request(household: int = 7, city: str = "Bern") -> ParsedRequest:
    columns = {"household_id": np.array([household]), "city": np.array([city], object), "weight": np.array([1.0])}
    return ParsedRequest(1, columns, (), b"")


def test_a_single_name_is_taken_as_a_key_of_one_field() -> None:
    assert Log("household_id").by == ("household_id",)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ({"by": ()}, "by=()"),
        ({"by": "household_id", "sample": 0.0}, "sample=0.0"),
        ({"by": "household_id", "sample": 1.5}, "sample=1.5"),
        ({"by": "household_id", "keep_days": 0}, "keep_days=0"),
        ({"by": "product_id"}, "'product_id', which is no field of the request itself"),
        ({"by": "weight"}, "'weight', which is a double"),
    ],
)
def test_a_log_that_cannot_be_is_refused_when_it_is_declared(log: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        model(Log(**log))  # type: ignore[arg-type]
    assert said in str(error.value)


def test_a_log_changes_what_is_released_and_not_what_is_trained() -> None:
    one, other = model(Log("household_id")), model(Log("household_id", sample=0.5))
    assert one.answers_fingerprint != other.answers_fingerprint
    assert one.fingerprints == other.fingerprints


def test_the_sample_holds_its_share_of_the_keys_and_a_growing_one_keeps_them() -> None:
    keys = [str(key).encode() for key in range(20_000)]
    tenth, third = (Sampler("search", Log("household_id", sample=share), FIELDS) for share in (0.1, 0.3))
    first, then = ({key for key in keys if of.is_logged(key)} for of in (tenth, third))
    assert first < then
    assert abs(len(first) - 2000) < 200
    assert abs(len(then) - 6000) < 300


def test_another_salt_gives_independent_buckets() -> None:
    keys = [str(key).encode() for key in range(20_000)]
    both = sum(bucket_of(key, b"log:a") < BUCKETS // 2 and bucket_of(key, b"rollout:a") < BUCKETS // 2 for key in keys)
    assert abs(both - 5000) < 250


@pytest.mark.parametrize("household", [7, -1, 2**62])
@pytest.mark.parametrize("city", ["Bern", "a|b%", "Zürich", "x" * 508])
def test_the_key_is_that_of_the_store_and_empty_where_the_values_are_none(household: int, city: str) -> None:
    asked, day = request(household, city), np.array(["2026-03-01"], "datetime64[D]")
    asked.columns = {**asked.columns, "day": day}
    for by in (("household_id",), ("city",), ("day",), ("city", "household_id", "day")):
        schema = KeySchema(tuple(KeyColumn(name, KINDS[name]) for name in by))
        try:
            [wanted] = encode_columns(schema, [asked.columns[name] for name in by])
        except InputError:
            wanted = b""
        assert Sampler("search", Log(by), FIELDS).key_of(asked) == wanted
    assert Sampler("search", Log("city"), FIELDS).key_of(request(city="")) == b""


def test_the_order_of_a_record_is_by_its_scores_unless_it_says_another() -> None:
    scores = np.array([0.5, 2.0, 0.5, 1.0], np.float32)
    record = {"items": 4, "scores": scores.tobytes(), "score_dtype": "float32", "ranking": None}
    assert order_of(record).tolist() == [1, 3, 0, 2]
    assert order_of({**record, "ranking": [3, 2, 1, 0]}).tolist() == [3, 2, 1, 0]
    assert order_of({**record, "scores": None}).tolist() == [0, 1, 2, 3]
    found = scores_of(record)
    assert found is not None
    assert found.dtype == np.float32


def test_features_of_a_record_are_a_matrix_of_its_items() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = features_of({"items": 2, "features": matrix.tobytes()})
    assert found is not None
    assert np.array_equal(found, matrix)
    assert features_of({"items": 2, "features": None}) is None
