"""MLflow's scoring protocol, asked by MLflow's own client."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from ranking_code import transforms
from reader_support import RunningReader, running_reader
from realtime_support import write_views
from release_support import HOUSEHOLD, a_request, make_release

from forecache.base.settings import Settings, load_settings
from forecache.declare.realtime.request import RequestField
from forecache.serve.reader.tokens import create_token


def add_fraud(settings: Settings) -> None:
    make_release(
        settings, name="fraud", transform=transforms.fraud, features=("amount", "spend"), candidates=None,
        lookups=(HOUSEHOLD,), request=(RequestField("household_id", "bigint"), RequestField("amount", "double", 1.0)),
        warmup=[b'{"household_id": 1, "amount": 2.5}'], deadline_ms=60_000.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    """With the ranking model alone."""
    settings = load_settings(home=tmp_path_factory.mktemp("reader"))
    write_views(settings)
    make_release(settings, deadline_ms=60_000.0)
    with running_reader(settings) as running:
        yield running


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    """With two models, and tokens."""
    settings = load_settings(home=tmp_path_factory.mktemp("both"))
    write_views(settings)
    make_release(settings, deadline_ms=60_000.0)
    add_fraud(settings)
    with running_reader(settings) as running:
        yield running


def own_scores(reader: RunningReader) -> list[float]:
    items = httpx.post(f"{reader.url}/v1/ranking", content=a_request()).json()["items"]
    by_product = {item["product_id"]: item["score"] for item in items}
    return [by_product[product] for product in "abc"]


RECORDS = [{"household_id": 1, "store_id": 3, "product_id": product, "price": 2.5} for product in "abc"]
COLUMNS = {"household_id": 1, "store_id": [3], "product_id": ["a", "b", "c"], "price": [2.5, 2.5, 2.5]}


def test_mlflows_own_client_scores_a_table(reader: RunningReader) -> None:
    client = ScoringServerClient("127.0.0.1", reader.port)
    client.ping()
    answer = client.invoke(pd.DataFrame(RECORDS)).get_predictions()
    assert answer.iloc[:, 0].to_numpy("float32").tolist() == np.array(own_scores(reader), "float32").tolist()
    assert httpx.get(f"{reader.url}/version").json()


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": RECORDS},
        {"dataframe_split": {"columns": list(RECORDS[0]), "data": [list(each.values()) for each in RECORDS]}},
        {"inputs": COLUMNS},
        {"instances": RECORDS},
        {"instances": COLUMNS},
    ],
)
def test_each_form_of_the_body_gives_the_same_scores_in_its_order(
    reader: RunningReader, body: dict[str, object]
) -> None:
    answer = httpx.post(f"{reader.url}/invocations", json=body).json()
    assert answer["predictions"] == pytest.approx(own_scores(reader), rel=1e-6)
    assert answer["item_answered_by"] == ["model"] * 3
    assert (answer["answered_by"], answer["release"]) == ("model", 1)


def test_without_time_predictions_are_null_and_the_order_is_given(reader: RunningReader) -> None:
    answer = httpx.post(
        f"{reader.url}/invocations", json={"instances": RECORDS}, headers={"X-Deadline-Ms": "0.001"}
    ).json()
    assert answer["predictions"] == [None] * 3
    assert answer["item_answered_by"] == ["order_given"] * 3


def test_one_of_several_models_is_named(both: RunningReader) -> None:
    rows = [{"household_id": 1, "amount": 2.5}, {"household_id": 2}]
    body = {"dataframe_records": rows}
    answer = httpx.post(f"{both.url}/invocations", params={"model": "fraud"}, json={"dataframe_records": rows}).json()
    own = [httpx.post(f"{both.url}/v1/fraud", json=row).json()["value"]["score"] for row in rows]
    assert answer["predictions"] == pytest.approx(own, rel=1e-6)
    assert 0 < answer["timings_ms.model"] < answer["timings_ms.total"], "of both rows"
    unnamed = httpx.post(f"{both.url}/invocations", json=body)
    assert unnamed.status_code == 400
    assert unnamed.json() == {
        "error_code": "BAD_REQUEST",
        "message": "2 models are served here (fraud, ranking); name one: /invocations?model=NAME.",
    }
    other = httpx.post(f"{both.url}/invocations?model=churn", json=body)
    assert (other.status_code, other.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "The body is an array; send an object."),
        ({}, "The body must be an object with one of dataframe_split, dataframe_records, inputs, instances."),
        ({"inputs": COLUMNS, "instances": RECORDS}, "The body must be an object with one of"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "Row 0 of `dataframe_split` is not an array of 1"),
        ({"dataframe_split": {"columns": ["a", "a"], "data": []}}, "A name is twice"),
        ({"dataframe_split": [1]}, "`dataframe_split` must be an object"),
        ({"dataframe_records": {"a": [1]}}, "The request has the unknown field 'a'; it takes"),
        ({"instances": [[1.0, 2.0]]}, "Row 0 of `instances` is an array; it must be an object"),
        ({"inputs": [1]}, "`inputs` is an array; it must be an object"),
        ({"inputs": {**COLUMNS, "colour": ["red"]}}, "The request has the unknown field 'colour'"),
        ({"inputs": {**COLUMNS, "household_id": [1, 2, 3]}}, "The field 'household_id' is '1' in one row and '2'"),
        ({"inputs": {**COLUMNS, "household_id": "one"}}, "The request field 'household_id' is 'one'."),
        ({"inputs": COLUMNS, "params": {"k": 3}}, "`params` are not taken"),
        ({"inputs": {"product_id": ["a"]}}, "The request field 'household_id' is missing."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_an_error_as_mlflows_server_gives_it(
    reader: RunningReader, body: object, message: str
) -> None:
    answer = httpx.post(f"{reader.url}/invocations", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert answer.json()["message"].startswith(message)


def test_other_media_types_and_methods_are_refused(reader: RunningReader) -> None:
    table = httpx.post(f"{reader.url}/invocations", content=b"a,b\n1,2\n", headers={"content-type": "text/csv"})
    assert table.status_code == 415
    assert httpx.get(f"{reader.url}/invocations").status_code == 405


def test_tokens_are_asked_for_by_every_protocol(settings: Settings) -> None:
    write_views(settings)
    make_release(settings, deadline_ms=60_000.0)
    tokens = settings.home / "tokens.json"
    other, _ = create_token(tokens, "other", ["churn"])
    own, _ = create_token(tokens, "own", ["ranking"])
    inputs = [
        {"name": "household_id", "datatype": "INT64", "shape": [1], "data": [1]},
        {"name": "product_id", "datatype": "BYTES", "shape": [1], "data": ["a"]},
    ]
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v2/models/ranking/infer", {"inputs": inputs}),
        ("/invocations", {"inputs": COLUMNS}),
    ]
    with running_reader(settings, reader_tokens=str(tokens)) as reader:
        for path, body in asked:
            for token, status in ((None, 401), (other, 403), (own, 200)):
                headers = {"authorization": f"Bearer {token}"} if token else {}
                answer = httpx.post(f"{reader.url}{path}", json=body, headers=headers)
                assert answer.status_code == status, (path, token, answer.text)
        assert httpx.get(f"{reader.url}/v2/models/ranking").status_code == 401
        assert httpx.get(f"{reader.url}/v2/health/ready").status_code == 200
        assert httpx.get(f"{reader.url}/ping").status_code == 200
