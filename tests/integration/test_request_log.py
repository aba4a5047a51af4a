"""Every protocol and every way to a model logs what was answered, with the features as the model got them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from log_support import commit_all, logged
from ranking_code import transforms
from reader_support import RunningReader, running_reader
from realtime_support import write_views
from release_support import HOUSEHOLD, a_request, make_release
from waiting import eventually

from forecache.base.settings import Settings, load_settings
from forecache.declare import Log
from forecache.declare.realtime.lookups import OrderGiven, Precomputed, Stored
from forecache.declare.realtime.request import RequestField
from forecache.declare.realtime.request_rows import RequestArrays, features_of, order_of, scores_of
from forecache.plugins.explain.explain import explain_answer
from forecache.realtime.log.answer_log import parse_logged
from forecache.realtime.log.record import schema
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.load import LoadedRelease, load_release
from forecache.realtime.request.request_parser import RequestParser

HOUSEHOLDS = {1: (10.0, 2.0), 2: (20.0, 4.0)}
PRODUCTS = {"a": 0.1, "b": 0.9, "c": 0.5}
POPULAR = Precomputed(Stored("product", ("product_id",), "popularity"))
HTTP = httpx.Client(timeout=30)


@dataclass
class Served:
    reader: RunningReader
    settings: Settings

    def row(self, name: str, request_id: str) -> dict[str, Any]:
        """The one row of a request, once it is committed."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            commit_all(self.settings, name)
            found[:] = logged(self.settings, name, request_id=request_id)
            return bool(found)

        assert eventually(is_there), f"{request_id} of {name} is not in the log"
        assert len(found) == 1
        return found[0]

    def ask(self, name: str, body: bytes, **headers: str) -> dict[str, Any]:
        answer = HTTP.post(f"{self.reader.url}/v1/{name}", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def by_model(self, name: str, body: bytes) -> dict[str, Any]:
        """An answer of the model itself, whose process may still have to get warm."""
        answers: list[dict[str, Any]] = []

        def is_of_model() -> bool:
            answers[:] = [self.ask(name, body)]
            return bool(answers[0]["answered_by"] == "model")

        assert eventually(is_of_model), answers
        return answers[0]

    def counted(self, metric: str, **labels: str) -> float:
        lines = HTTP.get(f"{self.reader.url}/metrics").text.splitlines()
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith(f"forecache_request_log_{metric}{{") and all(each in line for each in wanted)
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = load_settings(home=str(tmp_path_factory.mktemp("home")), request_log_delay_s=0.2)
    write_views(settings)
    log = Log("household_id")
    fallbacks = (POPULAR, OrderGiven())
    make_release(settings, fallbacks=fallbacks, deadline_ms=60_000.0, log=log)
    make_release(settings, name="aside", runs="process", deadline_ms=60_000.0, log=log)
    make_release(settings, name="kept", cache_bytes=1 << 20, deadline_ms=60_000.0, log=log)
    make_release(
        settings, name="trees", runtime="lightgbm", runs="process", cache_bytes=1 << 20, deadline_ms=60_000.0, log=log
    )
    make_release(settings, name="tenth", deadline_ms=60_000.0, log=Log("household_id", sample=0.1))
    make_release(
        settings, name="fraud", transform=transforms.fraud, features=("amount", "spend"), candidates=None,
        request=(RequestField("household_id", "bigint"), RequestField("amount", "double", 1.0)), lookups=(HOUSEHOLD,),
        warmup=[b'{"household_id": 1, "amount": 2.5}'], deadline_ms=60_000.0, on_nan="accept", log=log,
    )  # fmt: skip
    with running_reader(settings, request_log_delay_s=0.2, wait=False) as reader:
        reader.wait_until_ready()
        yield Served(reader, settings)


def loaded_of(served: Served, name: str) -> LoadedRelease:
    return load_release(open_releases(served.settings, name), 1)


def assert_recomputed(served: Served, name: str, row: dict[str, Any]) -> None:
    """Features and scores are those of the logged request over the views, to the bit."""
    loaded = loaded_of(served, name)
    try:
        request = parse_logged(RequestParser(loaded.release), loaded.release, row["request"])
        household = HOUSEHOLDS.get(int(request.columns["household_id"][0]))
        views = {"household": np.array([household or (np.nan, np.nan)], np.float32)}
        found = {"household": np.array([household is not None])}
        if name != "fraud":
            products = request.columns["product_id"].tolist()
            views["product"] = np.array([[PRODUCTS.get(each, np.nan)] for each in products], np.float32)
            found["product"] = np.array([each in PRODUCTS for each in products])
        features = loaded.features_of(
            loaded.builder.build_rows(RequestArrays(request.length, request.columns), views, found)
        )
        logged_features, scores = features_of(row), scores_of(row)
        assert logged_features is not None
        assert scores is not None
        assert logged_features.tobytes() == features.tobytes()
        assert row["items"] == request.length == len(scores)
        wanted = loaded.scores_of(features)
        assert (scores.dtype, scores.tobytes()) == (wanted.dtype, wanted.tobytes())
    finally:
        loaded.close()


def body_of(request_id: str, household: int = 1, products: tuple[str, ...] = ("a", "b", "c", "nobody")) -> bytes:
    return json.dumps({**json.loads(a_request(household, products)), "request_id": request_id}).encode()


@pytest.mark.parametrize("name", ["ranking", "aside", "kept", "trees"])
def test_a_ranking_is_logged_as_it_was_answered(served: Served, name: str) -> None:
    served.by_model(name, a_request())
    for turn in range(2):  # the second one from the cache, where there is one
        body = body_of(f"own-{name}-{turn}", household=2)
        answer = served.ask(name, body)
        row = served.row(name, f"own-{name}-{turn}")
        assert_recomputed(served, name, row)
        items = [each["product_id"] for each in json.loads(row["request"])["candidates"]]
        assert [items[place] for place in order_of(row)] == [each["product_id"] for each in answer["items"]]
        scores = scores_of(row)
        assert scores is not None
        assert [float(f"{score:.9g}") for score in scores[order_of(row)]] == pytest.approx(
            [each["score"] for each in answer["items"]], rel=1e-6
        )
        assert row["request"] == body
        assert (row["key"], row["release"], row["model_version"], row["variant"]) == ("2", 1, 1, "current")
        assert (row["answered_by"], row["item_answered_by"], row["ranking"], row["fallback_reason"], row["late"]) == (
            "model",
            None,
            None,
            "",
            False,
        )
        assert {each["name"]: each["version"] for each in row["stores"]} == {"household": 1, "product": 1}
        assert {each["table"] for each in row["stores"]} == {"predictions_household", "predictions_product"}
        times = answer["timings_ms"]
        assert row["total_us"] == pytest.approx(times["total"] * 1e3, abs=1.1)
        assert row["lookup_us"] == pytest.approx(times["lookup"] * 1e3, abs=1.1)
        assert row["deadline_ms"] == 60_000
        assert row["replica"].rpartition("#")[2].isdecimal()
        assert set(row) == set(schema().names)


def test_a_request_without_an_id_gets_one_which_its_answer_says(served: Served) -> None:
    answer = served.ask("ranking", a_request())
    assert len(answer["request_id"]) == 32
    assert served.row("ranking", answer["request_id"])["request"] == a_request()


def test_a_value_is_logged_with_one_item(served: Served) -> None:
    served.ask("fraud", b'{"household_id": 2, "amount": 10.5, "request_id": "value"}')
    row = served.row("fraud", "value")
    assert (row["items"], row["answered_by"]) == (1, "model")
    assert_recomputed(served, "fraud", row)


def tensors(**columns: list[Any]) -> list[dict[str, Any]]:
    kinds = {"household_id": "INT64", "product_id": "BYTES", "price": "FP64", "amount": "FP64"}
    return [{"name": name, "datatype": kinds[name], "shape": [len(values)], "data": values}
            for name, values in columns.items()]  # fmt: skip


@pytest.mark.parametrize("name", ["ranking", "aside"])
def test_the_inference_protocol_logs_the_request_as_own_json(served: Served, name: str) -> None:
    asked = {"id": f"oip-{name}", "inputs": tensors(household_id=[1], product_id=["a", "z"], price=[2.5, -0.0])}
    answer = HTTP.post(f"{served.reader.url}/v2/models/{name}/infer", json=asked).json()
    row = served.row(name, f"oip-{name}")
    assert answer["parameters"]["request_id"] == f"oip-{name}"
    assert_recomputed(served, name, row)
    assert json.loads(row["request"]) == {
        "household_id": 1, "store_id": 0, "request_id": f"oip-{name}",
        "candidates": [{"product_id": "a", "price": 2.5}, {"product_id": "z", "price": -0.0}],
    }  # fmt: skip


def test_several_rows_of_one_request_are_logged_each_under_an_id_of_its_own(served: Served) -> None:
    values = tensors(household_id=[1, 2, 3], amount=[1.0, 2.0, 3.0])
    asked = HTTP.post(f"{served.reader.url}/v2/models/fraud/infer", json={"id": "many", "inputs": values}).json()
    assert asked["parameters"]["request_id"] == "many/0 many/1 many/2"
    for place in range(3):
        row = served.row("fraud", f"many/{place}")
        assert json.loads(row["request"])["amount"] == place + 1
        assert row["key"] == str(place + 1)
        assert_recomputed(served, "fraud", row)


def test_invocations_are_logged_under_ids_that_the_answer_says(served: Served) -> None:
    rows = [{"household_id": 1, "amount": 5.0}, {"household_id": 2}]
    answer = HTTP.post(f"{served.reader.url}/invocations?model=fraud", json={"instances": rows}).json()
    made = answer["request_id"].split()
    assert len(made) == 2
    for request_id, amount in zip(made, (5.0, 1.0), strict=True):
        row = served.row("fraud", request_id)
        assert json.loads(row["request"])["amount"] == amount
        assert_recomputed(served, "fraud", row)


def test_numbers_that_json_has_not_are_logged_and_read_back(served: Served) -> None:
    amounts = np.array([np.nan, np.inf, -np.inf, -0.0])
    body = json.dumps({"id": "odd", "inputs": [
        {"name": "household_id", "datatype": "INT64", "shape": [4], "data": [1] * 4},
        {"name": "amount", "datatype": "FP64", "shape": [4], "parameters": {"binary_data_size": 32}},
    ]}).encode()  # fmt: skip
    headers = {"inference-header-content-length": str(len(body))}
    content = body + amounts.tobytes()
    answer = HTTP.post(f"{served.reader.url}/v2/models/fraud/infer", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    loaded = loaded_of(served, "fraud")
    for place, amount in enumerate(amounts):
        row = served.row("fraud", f"odd/{place}")
        request = parse_logged(RequestParser(loaded.release), loaded.release, row["request"])
        assert request.columns["amount"].tobytes() == amount.tobytes()
    loaded.close()


def test_an_answer_of_a_lower_fallback_says_so_and_has_no_features(served: Served) -> None:
    late = {"x-deadline-ms": "0.05"}
    answer = served.ask("ranking", body_of("lower"), **late)
    row = served.row("ranking", "lower")
    assert (row["fallback_reason"], row["answered_by"], row["late"]) == (
        answer["fallback_reason"],
        answer["answered_by"],
        answer.get("late", False),
    )
    assert row["fallback_reason"] == "deadline"
    assert row["features"] is None
    assert row["key"] == "1"
    assert row["deadline_ms"] == pytest.approx(0.05)
    items = [each["product_id"] for each in json.loads(row["request"])["candidates"]]
    assert [items[place] for place in order_of(row)] == [each["product_id"] for each in answer["items"]]


def test_a_request_that_is_refused_is_not_logged(served: Served) -> None:
    before = served.counted("rows_total", model="ranking")
    assert HTTP.post(f"{served.reader.url}/v1/ranking", content=b'{"household_id": "x"}').status_code == 400
    assert served.counted("rows_total", model="ranking") == before


def test_the_sample_holds_all_requests_of_some_keys(served: Served) -> None:
    for household in range(200):
        for turn in range(2):
            served.ask("tenth", body_of(f"{household}-{turn}", household, ("a",)))
    taken = served.counted("rows_total", model="tenth")

    def all_there() -> bool:
        commit_all(served.settings, "tenth")
        return len(logged(served.settings, "tenth")) == taken

    assert eventually(all_there)
    found = [row["request_id"].split("-") for row in logged(served.settings, "tenth")]
    households = {each[0] for each in found}
    assert len(found) == 2 * len(households)
    assert 5 <= len(households) <= 40


def test_nothing_was_lost(served: Served) -> None:
    assert served.counted("rows_lost_total") == 0
    for name in ("ranking", "aside", "fraud", "kept"):
        taken = served.counted("rows_total", model=name)

        def all_there(name: str = name, taken: float = taken) -> bool:
            commit_all(served.settings, name)
            return len(logged(served.settings, name, columns=["request_id"])) == taken

        assert eventually(all_there)
        assert served.counted("rows_committed_total", model=name) == taken
        assert served.counted("spool_bytes", model=name) == 0
    assert served.counted("commits_total") > 0, "the reader's own; some rows may have been committed here first"


@pytest.mark.parametrize("name", ["ranking", "aside", "trees"])
def test_an_answer_of_the_reader_is_explained_and_would_be_the_same_today(served: Served, name: str) -> None:
    answer = served.by_model(name, a_request(2))
    served.row(name, answer["request_id"])
    found = explain_answer(served.settings, name, answer["request_id"])
    shown = [(each["item"], each["score"]) for each in found["candidates"]]
    assert shown == [(each["product_id"], each["score"]) for each in answer["items"]]
    assert shown == [(each["item"], each["score_today"]) for each in found["candidates"]]
    assert [each["position_today"] for each in found["candidates"]] == [1, 2, 3]
    assert found["explained"]["contributions"]["sum"] == pytest.approx(answer["items"][0]["score"], rel=1e-4, abs=1e-6)
    assert not any(each["changed"] for each in found["explained"]["features"])
    assert found["times_us"]["total"] > 0
