"""What the Open Inference Protocol and MLflow's share: models in processes of their own, and whatever a body holds."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ranking_code import transforms
from reader_support import RunningReader, churn_rows, running_reader, write_version
from realtime_support import write_views
from release_support import HOUSEHOLD, a_request, make_release
from waiting import eventually

from forecache.base.settings import load_settings
from forecache.declare.realtime.request import RequestField

PRODUCTS = ["a", "b", "c"]
HTTP = httpx.Client(timeout=30)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    """With a model on the event loop, and two in processes of their own: one for candidates, one for single values."""
    settings = load_settings(home=tmp_path_factory.mktemp("reader"))
    write_views(settings)
    write_version(settings.store_path, "churn", churn_rows(10))
    make_release(settings, deadline_ms=60_000.0)
    make_release(settings, name="aside", runs="process", deadline_ms=60_000.0)
    make_release(
        settings, name="fraud", transform=transforms.fraud, features=("amount", "spend"), candidates=None,
        request=(RequestField("household_id", "bigint"), RequestField("amount", "double", 1.0)), lookups=(HOUSEHOLD,),
        runs="process", warmup=[b'{"household_id": 1, "amount": 2.5}'], deadline_ms=60_000.0,
    )  # fmt: skip
    with running_reader(settings) as running:
        yield running


def inputs(**columns: list[Any]) -> list[dict[str, Any]]:
    kinds = {"household_id": "INT64", "product_id": "BYTES", "price": "FP64", "amount": "FP64"}
    return [
        {"name": name, "datatype": kinds[name], "shape": [len(values)], "data": values}
        for name, values in columns.items()
    ]


def infer(reader: RunningReader, model: str, body: Any) -> httpx.Response:
    return HTTP.post(f"{reader.url}/v2/models/{model}/infer", json=body)


def data_of(answer: httpx.Response) -> dict[str, list[Any]]:
    assert answer.status_code == 200, answer.text
    return {each["name"]: each["data"] for each in answer.json()["outputs"]}


def test_a_model_in_a_process_of_its_own_gives_the_scores_of_the_one_on_the_loop(reader: RunningReader) -> None:
    asked = {"inputs": inputs(household_id=[1], product_id=PRODUCTS, price=[2.5] * 3)}
    assert eventually(lambda: set(data_of(infer(reader, "aside", asked))["answered_by"]) == {"model"})
    assert data_of(infer(reader, "aside", asked)) == data_of(infer(reader, "ranking", asked))
    rows = [{"household_id": 1, "product_id": product, "price": 2.5} for product in PRODUCTS]
    found = HTTP.post(f"{reader.url}/invocations?model=aside", json={"instances": rows}).json()
    assert found["predictions"] == data_of(infer(reader, "ranking", asked))["score"]


def test_many_rows_of_a_model_in_a_process_are_all_answered(reader: RunningReader) -> None:
    households, amounts = [1, 2, 3] * 20, [float(number) for number in range(60)]
    asked = {"inputs": inputs(household_id=households, amount=amounts)}
    assert eventually(lambda: set(data_of(infer(reader, "fraud", asked))["answered_by"]) == {"model"})
    scores = data_of(infer(reader, "fraud", asked))["score"]
    for place in (0, 31, 59):
        body = {"household_id": households[place], "amount": amounts[place]}
        own = HTTP.post(f"{reader.url}/v1/fraud", json=body).json()["value"]["score"]
        assert scores[place] == pytest.approx(own, rel=1e-6)


def test_more_rows_than_keys_may_be_asked_for_are_refused(reader: RunningReader) -> None:
    answer = infer(reader, "fraud", {"inputs": inputs(household_id=[1] * 1001)})
    assert answer.status_code == 422
    assert answer.json()["error"] == "There are 1001 rows, and at most 1000 are answered at once; send fewer."


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["household_id", "store_id", "product_id", "price", "colour"])
DATATYPES = st.sampled_from(["INT64", "BYTES", "FP64", "BOOL", "UINT8", "FP16", "FP99"])
ANY_INPUT = st.fixed_dictionaries(
    {"name": NAMES | JSON, "datatype": DATATYPES | JSON, "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON},
    optional={"data": JSON, "parameters": JSON},
)
ANY_TABLE = st.dictionaries(NAMES, st.lists(JSON, max_size=3) | JSON, max_size=5)


@hypothesis_settings(max_examples=150)
@given(st.lists(ANY_INPUT, max_size=4) | JSON, JSON, JSON)
def test_any_inputs_are_answered_or_refused_with_a_reason(
    reader: RunningReader, tensors: Any, outputs: Any, parameters: Any
) -> None:
    answer = infer(reader, "ranking", {"inputs": tensors, "outputs": outputs, "parameters": parameters})
    assert answer.status_code in (200, 400, 422), answer.text
    if answer.status_code != 200:
        assert list(answer.json()) == ["error"]


@hypothesis_settings(max_examples=150)
@given(st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances"]), ANY_TABLE | JSON)
def test_any_table_is_answered_or_refused_with_a_reason(reader: RunningReader, form: str, table: Any) -> None:
    for model in ("ranking", "fraud"):
        answer = HTTP.post(f"{reader.url}/invocations?model={model}", json={form: table})
        assert answer.status_code in (200, 400, 422), answer.text
        if answer.status_code != 200:
            assert list(answer.json()) == ["error_code", "message"]


@hypothesis_settings(max_examples=60)
@given(st.binary(max_size=60), st.from_regex(r"[!-~\xb2]{1,5}", fullmatch=True) | st.integers(0, 70).map(str))
def test_any_bytes_are_refused_with_a_reason(reader: RunningReader, body: bytes, length: str) -> None:
    headers = {"inference-header-content-length": length.encode("latin-1")}
    answer = HTTP.post(f"{reader.url}/v2/models/ranking/infer", content=body, headers=headers)
    assert answer.status_code in (400, 415)
    assert json.loads(HTTP.post(f"{reader.url}/v1/ranking", content=a_request()).content)["answered_by"] == "model"


def test_every_route_that_takes_a_body_refuses_a_compressed_one_in_the_same_words(reader: RunningReader) -> None:
    described = HTTP.get(f"{reader.url}/openapi.json").json()["paths"]
    places = {"{pipeline}": "churn", "{name}": "ranking", "{model}": "ranking", "{version}": "1"}
    paths = {path for path, operations in described.items() if "post" in operations}
    assert {"/get-online-features", "/v1/{pipeline}", "/v1/ranking"} <= paths
    of_others = {"/invocations", "/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"}
    for path in sorted(paths | of_others):
        for place, value in places.items():
            path = path.replace(place, value)
        query = "?model=ranking" if path == "/invocations" else ""
        headers = {"content-type": "application/json", "content-encoding": "gzip"}
        refused = HTTP.post(f"{reader.url}{path}{query}", content=gzip.compress(a_request()), headers=headers)
        assert (path, refused.status_code) == (path, 415)
        assert "The body is compressed; send it as it is." in refused.text
    as_it_is = {"content-type": "application/json", "content-encoding": "identity"}
    assert HTTP.post(f"{reader.url}/v1/ranking", content=a_request(), headers=as_it_is).status_code == 200
