"""Requests at the edges of what real-time models take, to a reader started as users start it."""

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest
from ranking_code import transforms
from reader_support import RunningReader, running_reader, start_reader
from realtime_support import write_views
from release_support import HOUSEHOLD, a_request, make_release
from waiting import eventually

from forecache.base.settings import Settings, load_settings
from forecache.declare.realtime.request import Candidates, RequestField
from forecache.plugins.protocols.mlflow import MlflowProtocol
from forecache.realtime.answer.engine import RequestHandler
from forecache.realtime.serve import RealtimeExtension
from forecache.serve.reader import create_token
from forecache.serve.reader.http.access import Access

FRAUD: dict[str, Any] = {
    "transform": transforms.fraud, "features": ("amount", "spend"), "candidates": None, "lookups": (HOUSEHOLD,),
    "request": (RequestField("household_id", "bigint"), RequestField("amount", "double", 1.0)),
    "warmup": [b'{"household_id": 1, "amount": 2.5}'], "deadline_ms": 60_000.0,
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
    make_release(settings, deadline_ms=60_000.0)
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
    assert found["answered_by"] == ["model"] * 3
    assert found["rank"] == [0, 1, 2]


def test_no_rows_get_an_answer_without_scores(reader: RunningReader) -> None:
    assert infer(reader, "fraud", tensor("household_id", [])) == {"score": [], "answered_by": []}
    ranked = infer(reader, "numbered", tensor("household_id", [1]), tensor("item", []))
    assert ranked == {"score": [], "rank": [], "answered_by": []}


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


def test_a_name_without_a_release_is_unknown(reader: RunningReader) -> None:
    answer = HTTP.post(f"{reader.url}/v1/other", json={"household_id": 1})
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:forecache:problem:unknown-pipeline")


def test_a_body_that_comes_after_the_deadline_is_answered_late_by_a_lower_fallback(reader: RunningReader) -> None:
    body = a_request()
    head = f"POST /v1/ranking HTTP/1.1\r\nHost: h\r\nX-Deadline-Ms: 1\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", reader.port), timeout=30) as client:
        client.sendall(head.encode())
        time.sleep(0.02)  # the deadline passes
        client.sendall(body)
        answer = http.client.HTTPResponse(client)
        answer.begin()
        told = json.load(answer)
    assert (answer.status, told["answered_by"], told["late"]) == (200, "order_given", True)


class Asked:
    """A call to an extension without a reader, and what it was answered."""

    def __init__(self, query: str = "", token: str = "") -> None:
        self.query_string = query
        self.headers = {"authorization": f"Bearer {token}"} if token else {}
        self.answer: tuple[int, dict[str, str], Any] | None = None

    def respond(self, status: int, headers: Any, body: bytes) -> None:
        self.answer = (status, dict(headers), orjson.loads(body))


def while_loading(settings: Settings, path: str, *, access: Access | None = None, **asked: str) -> Any:
    """What a request is answered before a reader has loaded any release; None where it is nothing of its models."""
    context: Any = SimpleNamespace(settings=settings, access=access)
    handler = RealtimeExtension(context).find_handler("POST", path)
    if handler is None:
        return None
    call: Any = Asked(**asked)
    handler(call)
    return call.answer


def test_a_model_is_not_spoken_of_without_a_token_while_the_reader_loads_it(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    token, _ = create_token(tokens, "caller", ["fraud"])
    settings = load_settings(home=tmp_path / "home")
    make_release(settings, name="fraud", **FRAUD)
    make_release(settings)
    access = Access(tokens)
    for path, query in (
        ("/v1/fraud", ""), ("/v2/models/fraud/infer", ""), ("/v2/models/other/infer", ""),
        ("/invocations", ""), ("/invocations", "model=fraud"),
    ):  # fmt: skip
        status, headers, _ = while_loading(settings, path, query=query, access=access)
        assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="forecache"')
    for path, query in (("/v1/ranking", ""), ("/v2/models/ranking/infer", ""), ("/invocations", "model=ranking")):
        assert while_loading(settings, path, query=query, access=access, token=token)[0] == 403
    assert while_loading(settings, "/v2/models/fraud/infer", access=access, token=token)[0] == 503
    assert while_loading(settings, "/invocations", access=access, token=token)[0] == 503


@pytest.mark.parametrize(
    ("path", "query", "member"),
    [
        ("/v1/fraud", "", "detail"),
        ("/v2", "", "error"),
        ("/v2/health/ready", "", "error"),
        ("/v2/models/fraud/infer", "", "error"),
        ("/v2/models/fraud/versions/1/ready", "", "error"),
        ("/invocations", "", "message"),
        ("/invocations", "model=fraud", "message"),
        ("/ping", "", "message"),
    ],
)
def test_every_protocol_says_503_while_the_reader_loads_releases(
    tmp_path: Path, path: str, query: str, member: str
) -> None:
    settings = load_settings(home=tmp_path)
    assert while_loading(settings, path, query=query) is None, "there is no release"
    make_release(settings, name="fraud", **FRAUD)
    status, headers, body = while_loading(settings, path, query=query)
    assert (status, headers["retry-after"]) == (503, "1")
    assert body[member] == "The reader is still loading its real-time models."


def test_while_the_reader_loads_releases_it_is_live_and_a_name_without_one_is_unknown(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    make_release(settings, name="fraud", **FRAUD)
    assert while_loading(settings, "/v2/health/live")[::2] == (200, {"live": True})
    unknown = "There is no pipeline or real-time model 'other'; GET /v1 lists what is served."
    assert while_loading(settings, "/v1/other") is None
    assert while_loading(settings, "/v2/models/other/infer")[::2] == (404, {"error": unknown})
    code = "RESOURCE_DOES_NOT_EXIST"
    told = while_loading(settings, "/invocations", query="model=other")
    assert told[::2] == (404, {"error_code": code, "message": unknown})


@pytest.mark.parametrize(
    ("failures", "retry_after"),
    [({}, "1"), ({"fraud": "damaged"}, "5")],
)  # fmt: skip
def test_mlflows_protocol_says_503_where_a_known_release_is_not_served(
    failures: dict[str, str], retry_after: str
) -> None:
    models: Any = SimpleNamespace(served={}, known=frozenset({"fraud"}), failures=failures)
    context: Any = SimpleNamespace(
        access=None, runtime=SimpleNamespace(is_draining=True), metrics=SimpleNamespace(observe=lambda *_: None)
    )
    handler: Any = RequestHandler(context, None, None)  # type: ignore[arg-type]
    protocol = MlflowProtocol(handler, models)
    for path, query in (("/invocations", ""), ("/invocations", "model=fraud"), ("/ping", "")):
        call: Any = Asked(query)
        call.method, call.arrived = "POST", 0
        handler = protocol.find(path)
        assert handler is not None
        awaited = handler(call)
        if awaited is not None:
            asyncio.run(awaited)  # type: ignore[arg-type]
        status, headers, body = call.answer
        assert (status, body["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert headers["retry-after"] == (retry_after if path == "/invocations" else "1")


def test_a_reader_that_starts_refuses_no_request_for_good(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path)
    write_views(settings)
    make_release(settings, deadline_ms=60_000.0)
    table = {"inputs": {"household_id": 1, "product_id": ["a"]}}
    tensors = {"inputs": [tensor("household_id", [1]), tensor("product_id", ["a"], "BYTES")]}
    asked: dict[str, Any] = {
        "/v2/models/ranking/infer": tensors, "/invocations": table, "/invocations?model=ranking": table,
        "/v1/ranking": {"household_id": 1, "candidates": [{"product_id": "a"}]},
    }  # fmt: skip
    reader = start_reader(settings, wait=False)
    try:
        found: list[tuple[str, int, str | None]] = []

        def answers() -> bool:
            try:
                told = [(path, HTTP.post(f"{reader.url}{path}", json=body)) for path, body in asked.items()]
            except httpx.TransportError:
                return False  # it listens not yet
            found.extend((path, each.status_code, each.headers.get("retry-after")) for path, each in told)
            return all(each.status_code == 200 for _, each in told)

        assert eventually(answers), found[-4:]
        assert {each[1:] for each in found} <= {(503, "1"), (200, None)}, found
    finally:
        reader.stop()
