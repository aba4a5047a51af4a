"""Real-time models over HTTP, in a reader started as users start it."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from ranking_code import transforms
from reader_support import RunningReader, running_reader
from realtime_support import HOUSEHOLD_KEY, write_packed, write_views
from release_support import HOUSEHOLD, a_request, make_release
from waiting import eventually

from forecache.base.errors import InputError, NotFoundError, UnavailableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.declare.realtime.lookups import Default, OrderGiven, Precomputed, Stored
from forecache.declare.realtime.request import RequestField
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.format import Release
from forecache.realtime.release.replicas import pull_releases, push_releases
from forecache.serve.reader import AsyncClient, Client, RealtimeAnswer, create_token
from forecache.serve.store.manifest import Field

POPULAR = Precomputed(Stored("product", ("product_id",), "popularity"))
FRAUD = {
    "name": "fraud",
    "features": ("amount", "spend"),
    "transform": transforms.fraud,
    "request": (RequestField("household_id", "bigint"), RequestField("amount", "double")),
    "candidates": None,
    "lookups": (HOUSEHOLD,),
}


def new_settings(tmp_path_factory: pytest.TempPathFactory, **more: Any) -> Settings:
    settings = load_settings(home=str(tmp_path_factory.mktemp("home")), **more)
    write_views(settings)
    return settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = new_settings(tmp_path_factory)
    make_release(settings, fallbacks=(POPULAR, OrderGiven()), deadline_ms=60_000.0)
    make_release(settings, **FRAUD, warmup=[b'{"household_id":1,"amount":3.0}'], deadline_ms=60_000.0)
    return settings


@pytest.fixture(scope="module")
def reader(settings: Settings) -> Iterator[RunningReader]:
    with running_reader(settings) as running:
        yield running


def ask(reader: RunningReader, body: bytes, name: str = "ranking", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{reader.url}/v1/{name}", content=body, headers=named)


def counted(reader: RunningReader, metric: str, of: str = "realtime") -> float:
    """The sum of the samples of a metric whose line begins so."""
    lines = httpx.get(f"{reader.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"forecache_{of}_{metric}"))


def test_a_ranking_says_for_each_candidate_its_score_and_fallback_and_where_they_come_from(
    reader: RunningReader,
) -> None:
    answer = ask(reader, a_request()).json()
    assert [item["product_id"] for item in answer["items"]] == ["b", "c", "a"]
    assert {item["answered_by"] for item in answer["items"]} == {"model"}
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["answered_by"] == "model"
    assert answer["answered_by_counts"] == {"model": 3}
    assert answer["model"] == {"name": "ranking", "version": 1, "runtime": "onnx"}
    assert answer["release"] == 1
    assert {name: (each["version"], each["stale"]) for name, each in answer["stores"].items()} == {
        "household": (1, False), "product": (1, False),
    }  # fmt: skip
    assert answer["deadline_ms"] == 60_000
    times = answer["timings_ms"]
    assert list(times) == ["wait", "parse", "lookup", "transform", "model", "fallbacks", "render", "total"]
    assert sum(times.values()) == pytest.approx(2 * times["total"], abs=0.01)


def test_a_model_without_candidates_answers_with_one_value(reader: RunningReader) -> None:
    answer = ask(reader, b'{"household_id":2,"amount":10.5,"request_id":"r-1"}', "fraud").json()
    assert answer["value"].keys() == {"score"}
    assert isinstance(answer["value"]["score"], float)
    assert answer["request_id"] == "r-1"
    assert answer["answered_by_counts"] == {"model": 1}


def test_unknown_keys_are_unknown_features_and_no_error(reader: RunningReader) -> None:
    answer = ask(reader, a_request(household=99, products=["nothing", "a"])).json()
    assert answer["answered_by_counts"] == {"model": 2}


def test_a_request_without_candidates_gets_an_empty_ranking(reader: RunningReader) -> None:
    answer = ask(reader, a_request(products=[])).json()
    assert answer["items"] == []
    assert answer["answered_by_counts"] == {}


def test_the_clients_ask_and_get_typed_answers(reader: RunningReader) -> None:
    request = orjson.loads(a_request()) | {"request_id": "r-7"}
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def ask_too() -> RealtimeAnswer:
        async with AsyncClient(reader.url) as client:
            return await client.ask("ranking", request)

    with Client(reader.url) as client:
        answer = client.ask("ranking", request, deadline_ms=50_000, headers={"traceparent": trace})
        for again in (answer, asyncio.run(ask_too())):
            assert [item["product_id"] for item in again.items] == ["b", "c", "a"]
            assert (again.name, again.request_id, again.answered_by, again.fallback_reason) == (
                "ranking",
                "r-7",
                "model",
                "",
            )
            assert (again.model_name, again.model_version, again.release) == ("ranking", 1, 1)
            assert (again.value, again.warnings, again.late) == ({}, (), False)
        assert answer.deadline_ms == 50_000
        plain = client.ask("fraud", {"household_id": 2, "amount": 1.0}).value
        assert plain.keys() == {"score"}
        assert client.ask("fraud", {"household_id": np.int64(2), "amount": np.float32(1.0)}).value == plain
        with pytest.raises(InputError, match="colour"):
            client.ask("ranking", request | {"colour": "red"})
        with pytest.raises(InputError, match="most is 200"):
            client.ask("ranking", request | {"candidates": [{"product_id": "a"}] * 201})
        with pytest.raises(NotFoundError):
            client.ask("nobody", request)
        asked = counted(reader, 'requests_total{route="realtime",status="504"', of="reader")
        with pytest.raises(UnavailableError, match="0 ms left"):
            client.ask("ranking", request, deadline_ms=0)
        assert counted(reader, 'requests_total{route="realtime",status="504"', of="reader") == asked + 1


def test_a_trace_goes_on_in_the_answer(reader: RunningReader) -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    answered = ask(reader, a_request(), traceparent=f"00-{trace}-{span}-01").headers["traceparent"]
    assert answered.startswith(f"00-{trace}-")
    assert answered.endswith("-01")
    assert span not in answered
    assert "traceparent" not in ask(reader, a_request(), traceparent="nonsense").headers


@pytest.mark.parametrize(
    ("body", "headers", "status", "slug"),
    [
        (b"", {}, 400, "bad-request"),
        (b'{"household_id":1}', {}, 400, "bad-request"),
        (orjson.dumps({"household_id": 1, "candidates": [{"product_id": ""}]}), {}, 400, "bad-key"),
        (orjson.dumps({"household_id": 1, "candidates": [{"product_id": "x" * 600}]}), {}, 400, "bad-key"),
        (a_request(products=["a"] * 201), {}, 422, "too-many-candidates"),
        (a_request(), {"x_deadline_ms": "0"}, 504, "deadline-passed"),
        (a_request(), {"x_deadline_ms": "soon"}, 400, "bad-request"),
        (a_request(), {"content_type": "text/plain"}, 415, "unsupported-media-type"),
        (b" " * (2 << 20), {}, 413, "body-too-large"),
    ],
)
def test_a_bad_request_gets_a_problem(
    reader: RunningReader, body: bytes, headers: dict[str, str], status: int, slug: str
) -> None:
    response = ask(reader, body, **headers)
    assert (response.status_code, response.json()["type"]) == (status, f"urn:forecache:problem:{slug}")


def test_a_key_that_is_none_is_told_with_the_field_that_holds_it(reader: RunningReader) -> None:
    response = ask(reader, orjson.dumps({"household_id": 1, "candidates": [{"product_id": ""}]}))
    assert response.json()["detail"] == "The key '' has 0 bytes. A key has 1 to 511 bytes. It comes from product_id."


def test_a_request_that_is_too_late_on_arrival_gets_the_last_fallback_and_is_told_so(reader: RunningReader) -> None:
    late = counted(reader, 'late_answers_total{model="ranking"')
    answer = ask(reader, a_request(), x_request_start=f"t={time.time() - 20:.3f}", x_deadline_ms="5000").json()
    assert answer["answered_by"] == "order_given"
    assert answer["fallback_reason"] == "deadline"
    assert answer["late"] is True
    assert counted(reader, 'late_answers_total{model="ranking"') == late + 1


def test_a_deadline_that_the_model_cannot_keep_is_kept_by_a_lower_fallback(reader: RunningReader) -> None:
    answer = ask(reader, a_request(), x_deadline_ms="0.05").json()
    assert answer["answered_by"] in ("precomputed", "order_given")
    assert answer["fallback_reason"] == "deadline"
    assert answer["deadline_ms"] == 0.05


@pytest.mark.parametrize("path", ["/v1/ranking/1", "/v1/ranking/", "/v1/ranking/1/2"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_model_that_is_asked_like_a_key_says_how_to_ask_it(reader: RunningReader, path: str, method: str) -> None:
    refused = httpx.request(method, f"{reader.url}{path}")
    assert (refused.status_code, refused.json()["type"]) == (404, "urn:forecache:problem:no-such-route")
    assert "send a request to POST /v1/ranking." in refused.json()["detail"]


def test_the_model_describes_itself_and_other_methods_are_refused(reader: RunningReader) -> None:
    described = httpx.get(f"{reader.url}/v1/ranking").json()
    assert described["fallbacks"] == ["model", "precomputed", "order_given"]
    assert described["runs"] == "loop"
    assert described["calibrated_p99_ms"] > 0
    assert [field["name"] for field in described["request"]] == ["household_id", "store_id"]
    refused = httpx.put(f"{reader.url}/v1/ranking")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST, HEAD")
    assert httpx.post(f"{reader.url}/v1/nobody", content=a_request()).status_code == 404
    listed = httpx.get(f"{reader.url}/v1").json()
    assert [(model["name"], model["release"]) for model in listed["models"]] == [("fraud", 1), ("ranking", 1)]


def test_the_openapi_document_has_the_request_of_each_model(reader: RunningReader) -> None:
    paths = httpx.get(f"{reader.url}/openapi.json").json()["paths"]
    schema = paths["/v1/ranking"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["household_id", "candidates"]
    assert schema["properties"]["candidates"]["maxItems"] == 200
    assert "get" in paths["/v1/fraud"]


def test_every_answer_is_counted_by_its_fallbacks_and_stages(reader: RunningReader) -> None:
    before = [counted(reader, name) for name in ('items_total{answered_by="model",model="fraud"', "answers_total")]
    for _ in range(3):
        ask(reader, b'{"household_id":2,"amount":1.0}', "fraud")
    after = [counted(reader, name) for name in ('items_total{answered_by="model",model="fraud"', "answers_total")]
    assert [new - old for old, new in zip(before, after, strict=True)] == [3, 3]
    assert counted(reader, 'stage_seconds_total{model="fraud",stage="lookup"') > 0


def test_a_view_the_model_was_not_trained_with_is_refused_or_flagged(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = new_settings(tmp_path_factory)
    make_release(settings, name="strict", fallbacks=(POPULAR, OrderGiven()), deadline_ms=60_000.0)
    make_release(settings, name="lenient", on_contract="flag", deadline_ms=60_000.0)
    with running_reader(settings) as reader:
        assert ask(reader, a_request(), "strict").json()["answered_by"] == "model"
        fields = (Field("visits_28d", "float"), Field("other", "float"))
        write_packed(settings, "household", {1: (2.0, 1.0)}, key=HOUSEHOLD_KEY, fields=fields, contract="new")
        assert eventually(lambda: ask(reader, a_request(), "strict").json()["answered_by"] != "model")
        strict, lenient = (ask(reader, a_request(), name).json() for name in ("strict", "lenient"))
        assert (strict["answered_by"], strict["fallback_reason"]) == ("precomputed", "contract")
        assert lenient["answered_by"] == "model"
        assert "household" in lenient["warnings"][0]
        assert "spend_28d" in lenient["warnings"][0]
        assert lenient["stores"]["household"]["version"] == 2


def test_a_missing_view_leads_down_the_fallbacks(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = load_settings(home=str(tmp_path_factory.mktemp("home")))
    make_release(settings, deadline_ms=60_000.0)
    make_release(
        settings, **FRAUD, warmup=[b'{"household_id":1,"amount":3.0}'], fallbacks=(Default(0.5),), deadline_ms=60_000.0
    )
    with running_reader(settings) as reader:
        ranked = ask(reader, a_request()).json()
        assert (ranked["answered_by"], ranked["fallback_reason"], ranked["stores"]) == ("order_given", "lookup", {})
        assert [item["product_id"] for item in ranked["items"]] == ["a", "b", "c"]
        valued = ask(reader, b'{"household_id":2,"amount":1.0}', "fraud").json()
        assert (valued["value"], valued["answered_by"]) == ({"score": 0.5}, "default")


def test_a_token_must_cover_the_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = new_settings(tmp_path_factory)
    make_release(settings)
    tokens = settings.home / "tokens.json"
    good, other = (create_token(tokens, "test", [scope])[0] for scope in ("ranking", "household"))
    with running_reader(settings, reader_tokens=str(tokens)) as reader:
        statuses = [
            ask(reader, a_request(), **headers).status_code
            for headers in ({}, {"authorization": f"Bearer {other}"}, {"authorization": f"Bearer {good}"})
        ]
    assert statuses == [401, 403, 200]


def test_a_damaged_release_gets_a_problem_and_leaves_what_answers_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = new_settings(tmp_path_factory)
    make_release(settings, deadline_ms=60_000.0)
    damage(settings, make_release(settings, name="broken"))
    with running_reader(settings) as reader:
        response = ask(reader, a_request(), "broken")
        assert (response.status_code, response.json()["type"]) == (503, "urn:forecache:problem:not-readable")
        assert counted(reader, 'swap_failures_total{model="broken"') == 1
        assert ask(reader, a_request()).json()["release"] == 1


def damage(settings: Settings, release: Release) -> None:
    model = open_releases(settings, release.name).release(release.number) / "model.bin"
    model.write_bytes(model.read_bytes()[:-1])


def test_a_replica_answers_by_the_release_of_a_new_publisher_that_has_the_number_of_an_old_one(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings, publisher = new_settings(tmp_path_factory), new_settings(tmp_path_factory)
    remote = LocalFolder(tmp_path_factory.mktemp("remote"))
    make_release(settings, deadline_ms=60_000.0)  # as pulled from a publisher whose store was lost
    make_release(publisher, version=2, deadline_ms=60_000.0)
    push_releases(open_releases(publisher, "ranking"), remote)
    with running_reader(settings) as reader:
        before = ask(reader, a_request()).json()
        assert (before["release"], before["model"]["version"]) == (1, 1)
        assert pull_releases(open_releases(settings, "ranking"), remote)["release"] == 1
        assert eventually(lambda: ask(reader, a_request()).json()["model"]["version"] == 2)
        swaps = counted(reader, 'swaps_total{model="ranking"')
        time.sleep(1.5)
        assert counted(reader, 'swaps_total{model="ranking"') == swaps


def test_releases_and_stores_are_swapped_under_load_without_a_failed_or_mixed_answer(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    settings = new_settings(tmp_path_factory)
    make_release(settings, deadline_ms=60_000.0)
    stop, answers, failures = threading.Event(), [], []

    def load(url: str) -> None:
        with httpx.Client() as http:
            while not stop.is_set():
                response = http.post(f"{url}/v1/ranking", content=a_request())
                if response.status_code != 200:
                    failures.append(response.text)
                    return
                answers.append(response.json())

    with running_reader(settings) as reader:
        threads = [threading.Thread(target=load, args=(reader.url,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(2, 5):
            write_views(settings, shift=float(number))
            make_release(settings, version=number, deadline_ms=60_000.0)
            assert eventually(lambda n=number: bool(answers) and answers[-1]["release"] == n)  # type: ignore[misc]
            assert eventually(lambda n=number: answers[-1]["stores"]["product"]["version"] == n)  # type: ignore[misc]
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert {answer["answered_by"] for answer in answers} == {"model"}, {
        answer.get("fallback_reason") for answer in answers
    }
    scores: dict[Any, set[Any]] = {}
    for answer in answers:
        versions = tuple(each["version"] for each in answer["stores"].values())
        scores.setdefault((answer["release"], versions), set()).add(
            tuple(sorted((item["product_id"], item["score"]) for item in answer["items"]))
        )
    assert all(len(each) == 1 for each in scores.values())
    assert {answer["model"]["version"] for answer in answers} == {1, 2, 3, 4}


def test_scores_of_equal_requests_are_kept_until_a_view_is_published(tmp_path: Path) -> None:
    settings = load_settings(home=str(tmp_path))
    write_views(settings)
    make_release(settings, cache_bytes=1 << 20, deadline_ms=60_000.0)

    def counted(name: str) -> float:
        lines = httpx.get(f"{reader.url}/metrics").text.splitlines()
        [value] = [
            line.split()[-1] for line in lines if line.startswith(f'forecache_realtime_{name}{{model="ranking"}}')
        ]
        return float(value)

    with running_reader(settings) as reader:
        first, again = (ask(reader, a_request()).json() for _ in range(2))
        assert first["items"] == again["items"]
        assert (counted("cache_misses_total"), counted("cache_hits_total")) == (1, 1)
        assert counted("cache_bytes") > 0
        write_views(settings, shift=1.0)
        assert eventually(lambda: ask(reader, a_request()).json()["items"] != first["items"])
        assert counted("cache_misses_total") >= 2
