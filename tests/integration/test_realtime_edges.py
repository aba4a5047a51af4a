"""Requests at the edges of what real-time models take, to a reader started as users start it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ranking_code import transforms
from reader_support import RunningReader, running_reader
from realtime_support import write_views
from release_support import HOUSEHOLD, make_release

from forecache.pipeline.realtime.request import Candidates, RequestField
from forecache.reader import create_token
from forecache.reader.http.access import Access
from forecache.realtime.serve import RealtimeExtension
from forecache.settings import load_settings

FRAUD: dict[str, Any] = {
    "transform": transforms.fraud, "features": ("amount", "spend"), "candidates": None, "lookups": (HOUSEHOLD,),
    "request": (RequestField("household_id", "bigint"), RequestField("amount", "double", 1.0)),
    "warmup": [b'{"household_id": 1, "amount": 2.5}'], "deadline_ms": 5000.0,
}  # fmt: skip
NUMBERED = {
    **FRAUD, "candidates": Candidates((RequestField("item", "bigint"),), most=10_000),
    "warmup": [b'{"household_id": 1, "candidates": [1, 2]}'],
}  # fmt: skip
HTTP = httpx.Client(timeout=30)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    settings = load_settings(home=tmp_path_factory.mktemp("reader"))
    write_views(settings)
    make_release(settings, deadline_ms=5000.0)
    make_release(settings, name="fraud", **FRAUD)
    make_release(settings, name="numbered", **NUMBERED)
    with running_reader(settings) as running:
        yield running


def tensor(name: str, values: list[Any], datatype: str = "INT64") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(values)], "data": values}


def infer(reader: RunningReader, model: str, *inputs: dict[str, Any]) -> dict[str, Any]:
    answer = HTTP.post(f"{reader.url}/v2/models/{model}/infer", json={"inputs": inputs})
    assert answer.status_code == 200, answer.text
    return {each["name"]: each["data"] for each in answer.json()["outputs"]}


@pytest.mark.parametrize("datatype", ["INT64", "INT32"])
def test_candidates_named_by_numbers_are_ranked_over_the_inference_protocol(
    reader: RunningReader, datatype: str
) -> None:
    found = infer(reader, "numbered", tensor("household_id", [1]), tensor("item", [5, 6, 7], datatype))
    assert found["rung"] == ["model"] * 3
    assert found["rank"] == [0, 1, 2]


def test_no_rows_get_an_answer_without_scores(reader: RunningReader) -> None:
    assert infer(reader, "fraud", tensor("household_id", [])) == {"score": [], "rung": []}
    ranked = infer(reader, "numbered", tensor("household_id", [1]), tensor("item", []))
    assert ranked == {"score": [], "rank": [], "rung": []}


@pytest.mark.parametrize(
    "items",
    [['a",', "b"], ['","', "x"], ["\\", '"'], ["a,b", 'c","d', '\\",'], ["\u2028", "\0", "ü😀,"], ["a", "a", "a"]],
)
def test_names_of_candidates_come_back_whatever_is_in_them(reader: RunningReader, items: list[str]) -> None:
    body = {"household_id": 1, "candidates": [{"product_id": item} for item in items]}
    answer = HTTP.post(f"{reader.url}/v1/ranking", json=body)
    assert sorted(each["product_id"] for each in answer.json()["items"]) == sorted(items)


@pytest.mark.parametrize("items", [[2**63 - 1, -(2**63), 2**53 + 1], [1, 1, 1], list(range(10_000))])
def test_numbers_of_candidates_come_back_exactly(reader: RunningReader, items: list[int]) -> None:
    answer = HTTP.post(f"{reader.url}/v1/numbered", json={"household_id": 1, "candidates": items})
    assert sorted(each["item"] for each in answer.json()["items"]) == sorted(items)


def test_names_of_models_are_told_to_those_alone_whose_token_covers_them(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    token, _ = create_token(tokens, "caller", ["fraud"])
    settings = load_settings(home=tmp_path / "home")
    write_views(settings)
    make_release(settings)
    make_release(settings, name="fraud", **FRAUD)
    with running_reader(settings, reader_tokens=str(tokens)) as reader:
        unknown = HTTP.post(f"{reader.url}/invocations", json={"instances": []})
        known = HTTP.post(
            f"{reader.url}/invocations", json={"instances": []}, headers={"authorization": f"Bearer {token}"}
        )
    assert unknown.status_code == 401
    assert "ranking" not in unknown.text
    assert known.status_code == 400
    assert "(fraud)" in known.text


def test_a_model_is_not_spoken_of_without_a_token_while_the_reader_loads_it(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    create_token(tokens, "caller", ["fraud"])
    settings = load_settings(home=tmp_path / "home")
    make_release(settings, name="fraud", **FRAUD)
    context: Any = SimpleNamespace(settings=settings, access=Access(tokens))
    handler = RealtimeExtension(context).find("POST", "/v1/fraud")
    assert handler is not None
    answered: list[int] = []
    call: Any = SimpleNamespace(headers={}, respond=lambda status, headers, body: answered.append(status))
    handler(call)
    assert answered == [401]
