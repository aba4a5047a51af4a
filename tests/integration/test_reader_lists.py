"""Lists over HTTP: whole, cut by `limit`, in Feast's format, and through the clients."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from list_tables import SERVED, top
from reader_support import MODEL, RunningReader, churn_rows, running_reader, value_json, write_version

from forecache.base.errors import InputError
from forecache.base.settings import load_settings
from forecache.serve.reader import AsyncClient, Client, create_token
from forecache.serve.store import Field, Provenance

FIELDS = (
    Field("items", SERVED["items"]), Field("viewed", SERVED["tags"]), Field("vector", SERVED["vector"]),
    Field("note", "string"),
)  # fmt: skip
NOTE = "[1\t,2\r]\n},{"
"""Text that looks like a list and its marks."""
OWN = Provenance("churn", 2, 5, "2026-11-20T01:00:00.000000Z", "run-2")


def row(count: int) -> dict[str, Any]:
    viewed = [f"sjö\t{place}" for place in range(count // 2)]
    return {"items": top(count), "viewed": viewed, "vector": [0.5] * 12, "note": NOTE}


ROWS = {f"{count:05d}": row(count) for count in (0, 1, 9, 10, 11, 50, 1000)} | {
    "nulls": dict.fromkeys(("items", "viewed", "vector", "note")),
    "own": row(50),
}


def cut(value: dict[str, Any], limit: int) -> dict[str, Any]:
    return {name: member[:limit] if isinstance(member, list) else member for name, member in value.items()}


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("tokens") / "tokens.json"
    return path, create_token(path, "test", ["*"])[0]


@pytest.fixture(scope="module", params=["anyone", "token"])
def reader(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, token: tuple[Path, str]
) -> Iterator[RunningReader]:
    settings = load_settings(home=tmp_path_factory.mktemp("reader"))
    write_version(settings.store_path, "recommended", ROWS, fields=FIELDS, carried={"own": OWN})
    write_version(settings.store_path, "churn", churn_rows(3))
    with running_reader(settings, **({"reader_tokens": str(token[0])} if request.param == "token" else {})) as running:
        yield running


@pytest.fixture
def http(reader: RunningReader, token: tuple[Path, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=reader.url, headers={"authorization": f"Bearer {token[1]}"}) as client:
        yield client


@pytest.mark.parametrize("key", ROWS)
def test_a_list_is_answered_whole_or_cut(http: httpx.Client, key: str) -> None:
    whole = http.get(f"/v1/recommended/{key}")
    assert whole.json()["value"] == ROWS[key]
    assert value_json(ROWS[key]) in whole.content
    for limit in (1, 10, 999, 1000):
        answer = http.get(f"/v1/recommended/{key}?limit={limit}")
        assert answer.json() == whole.json() | {"value": cut(ROWS[key], limit), "age_s": answer.json()["age_s"]}
        assert answer.headers["etag"] == whole.headers["etag"]
    assert whole.json()["model"]["version"] == (OWN if key == "own" else MODEL).model_version


def test_limit_and_fields_go_together_in_any_order(http: httpx.Client) -> None:
    for query in ("fields=viewed,items&limit=3", "limit=3&fields=viewed&fields=items", "limit=%33&fields=viewed,items"):
        value = http.get(f"/v1/recommended/00050?{query}").json()["value"]
        assert value == {"viewed": ROWS["00050"]["viewed"][:3], "items": top(3)}
        assert list(value) == ["viewed", "items"]


def test_a_value_without_lists_stays_as_it_is(http: httpx.Client) -> None:
    assert http.get("/v1/churn/00001?limit=1").json()["value"] == http.get("/v1/churn/00001").json()["value"]


def test_many_keys_are_cut_alike(http: httpx.Client) -> None:
    keys = [*ROWS, "nobody"]
    for more in ({}, {"limit": 1}, {"limit": 10}, {"limit": 1000}):
        results = http.post("/v1/recommended", json={"keys": keys, **more}).json()["results"]
        assert [each.get("value") for each in results] == [
            *(cut(each, more.get("limit", 10**6)) for each in ROWS.values()),
            None,
        ]
        assert results[-2]["model"]["version"] == OWN.model_version
    some = http.post("/v1/recommended", json={"keys": ["00050"], "fields": ["items"], "limit": 2}).json()
    assert some["results"][0]["value"] == {"items": top(2)}


@pytest.mark.parametrize(
    "query",
    ["limit=", "limit=0", "limit=1001", "limit=-1", "limit=1.5", "limit=ten", "limit=%D9%A3", "limit=+5", "limit=1e1",
     "limit=5&limit=5", "limit=5&x=1", "Limit=5", "limit", "limit=99999999999999999999", "fields=items&limit=0"],
)  # fmt: skip
def test_a_limit_that_is_none_is_a_problem(http: httpx.Client, query: str) -> None:
    response = http.get(f"/v1/recommended/00050?{query}")
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:forecache:problem:bad-request"
    assert "limit" in response.json()["detail"]


@pytest.mark.parametrize("limit", [0, 1001, -1, 1.0, "5", None, True, [5], 2**63])
def test_a_limit_in_a_body_that_is_none_is_a_problem(http: httpx.Client, limit: Any) -> None:
    response = http.post("/v1/recommended", json={"keys": ["00050"], "limit": limit})
    assert (response.status_code, response.json()["type"]) == (400, "urn:forecache:problem:bad-request")
    assert "1 to 1,000" in response.json()["detail"]


def test_a_limit_of_thousands_of_digits_is_answered_too(http: httpx.Client) -> None:
    assert http.get("/v1/recommended/00050?limit=" + "9" * 3000).status_code == 400
    assert http.get("/v1/recommended/00050?limit=" + "9" * 5000).status_code == 414


def test_a_key_that_is_not_there_stays_a_problem(http: httpx.Client) -> None:
    assert http.get("/v1/recommended/nobody?limit=5").status_code == 404


def test_head_and_if_none_match_take_a_limit(http: httpx.Client) -> None:
    answer = http.get("/v1/recommended/00050?limit=5")
    head = http.head("/v1/recommended/00050?limit=5")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(answer.content)))
    again = http.get("/v1/recommended/00050?limit=5", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


def test_metadata_names_the_types(http: httpx.Client) -> None:
    assert http.get("/v1/recommended").json()["fields"] == [
        {"name": field.name, "type": field.type} for field in FIELDS
    ]


def test_feast_has_lists_of_numbers_and_the_text_of_lists_of_structures(http: httpx.Client) -> None:
    body = {
        "entities": {"customer_id": ["00009", "00000", "nulls", "nobody"]},
        "features": ["recommended:items", "recommended:vector"],
    }
    _, items, vector = http.post("/get-online-features", json=body).json()["results"]
    assert [value and json.loads(value) for value in items["values"]] == [top(9), [], None, None]
    assert items["statuses"] == ["PRESENT", "PRESENT", "NULL_VALUE", "NOT_FOUND"]
    assert vector["values"] == [[0.5] * 12, [0.5] * 12, None, None]


def test_the_clients_take_a_limit(reader: RunningReader, token: tuple[Path, str]) -> None:
    with Client(reader.url, token=token[1], batch=2) as client:
        answer = client.get("recommended", "00050", limit=10)
        assert answer is not None
        assert answer.value == cut(ROWS["00050"], 10)
        answer = client.get("recommended", "00050", fields=["items"], limit=10)
        assert answer is not None
        assert answer.value == {"items": top(10)}
        assert client.get("recommended", ".", limit=10) is None
        found = client.get_many("recommended", list(ROWS), limit=10)
        assert [each.value for each in found] == [cut(each, 10) for each in ROWS.values()]
        for limit in (0, 1001):
            with pytest.raises(InputError, match="1 to 1,000"):
                client.get("recommended", "00050", limit=limit)
            with pytest.raises(InputError, match="1 to 1,000"):
                client.get_many("recommended", ["00050"], limit=limit)

    async def ask() -> None:
        async with AsyncClient(reader.url, token=token[1]) as client:
            answer = await client.get("recommended", "00050", limit=3)
            assert answer is not None
            assert answer.value == cut(ROWS["00050"], 3)
            assert (await client.get_many("recommended", ["00050"], limit=3))[0].value == answer.value

    asyncio.run(ask())
