"""A published feature view over HTTP: the reader, its client and its documents, from a local store and from Redis."""

from collections.abc import Iterator

import httpx
import pytest
from reader_support import RunningReader, running_reader
from store_services import redis_server
from view_tables import COLUMNS, OPEN, features, household, write_features

from forecache.base.settings import load_settings
from forecache.serve.reader.client import Client
from forecache.serve.store import publish

ROWS = {
    ("a|b", 7): (0.1, 3, [1.5, None, -0.0]),
    ("c", -2): (None, 2**40, None),
    **{("many", number): (number / 3, number, [number / 7] * 3) for number in range(50)},
}
VALUE = {"spend": 0.1, "visits": 3, "taste": [1.5, None, -0.0]}


@pytest.fixture(scope="module", params=["store", "redis"])
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    settings = load_settings(home=tmp_path_factory.mktemp("home"))
    write_features(settings, features(ROWS))
    if request.param == "store":
        publish(settings, household())
        with running_reader(settings) as running:
            yield running
        return
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        settings = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})
        publish(settings, household(OPEN.__class__(backend="redis", max_psi=None)))
        elsewhere = load_settings(home=tmp_path_factory.mktemp("reader"), redis_url=settings.redis_url)
        with running_reader(elsewhere, redis_url=settings.redis_url) as running:
            yield running


def test_a_row_is_answered_as_json_without_a_model(reader: RunningReader) -> None:
    answer = httpx.get(f"{reader.url}/v1/household/a%257Cb%7C7")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["key"], body["value"]) == ("a%7Cb|7", VALUE)
    assert (body["source"], body["store_version"], body["as_of"]) == ("precomputed", 1, "1998-06-30")
    assert {"model", "scored_at"}.isdisjoint(body)
    assert '"visits":3,' in answer.text
    cut = httpx.get(f"{reader.url}/v1/household/a%257Cb%7C7?fields=taste&limit=2").json()
    assert cut["value"] == {"taste": [1.5, None]}
    assert httpx.get(f"{reader.url}/v1/household/nobody%7C1").status_code == 404


def test_many_rows_are_answered_in_their_order(reader: RunningReader) -> None:
    keys = ["many|49", "nobody|1", "c|-2", *(f"many|{number}" for number in range(40))]
    results = httpx.post(f"{reader.url}/v1/household", json={"keys": keys}).json()["results"]
    assert [row["key"] for row in results] == keys
    assert [row["found"] for row in results[:3]] == [True, False, True]
    assert results[2]["value"] == {"spend": None, "visits": 2**40, "taste": [None] * 3}
    assert [row["value"]["visits"] for row in results[3:]] == list(range(40))


def test_the_metadata_names_the_columns_and_the_contract(reader: RunningReader) -> None:
    body = httpx.get(f"{reader.url}/v1/household").json()
    assert body["fields"] == [
        {"name": "spend", "type": "float"},
        {"name": "visits", "type": "integer"},
        {"name": "taste", "type": "vector", "size": 3},
    ]
    assert (body["columns"], body["contract"]) == (list(COLUMNS), household().packed.contract)
    assert httpx.get(f"{reader.url}/v1").json()["pipelines"][0]["pipeline"] == "household"
    assert "model" not in httpx.get(f"{reader.url}/versions/household").json()["versions"][0]


def test_feasts_format_has_the_features(reader: RunningReader) -> None:
    entities = {"store": ["a|b", "nobody"], "household_id": [7, 1]}
    asked = {"entities": entities, "features": ["household:visits", "household:taste", "household:spend"]}
    answer = httpx.post(f"{reader.url}/get-online-features", json=asked).json()
    found = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
    assert found["visits"]["values"] == [3, None]
    assert found["taste"]["values"] == [[1.5, None, -0.0], None]
    assert found["spend"]["values"] == [0.1, None]
    assert found["spend"]["statuses"] == ["PRESENT", "NOT_FOUND"]


def test_the_client_reads_features(reader: RunningReader) -> None:
    with Client(reader.url) as client:
        answer = client.get("household", ("a|b", 7))
        assert answer is not None
        assert answer.value == VALUE
        assert (answer.model_name, answer.model_version, answer.scored_at) == ("", -1, None)
        assert [each.found for each in client.get_many("household", [("c", -2), ("c", 2)])] == [True, False]
