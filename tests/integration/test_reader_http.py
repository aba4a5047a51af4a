"""The reader over real sockets: routes, problem details, conditional requests, compression, Feast's format."""

import gzip
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from reader_support import RunningReader, churn_rows, running_reader, write_version, yesterday

from forecache.base.settings import load_settings
from forecache.serve.store import Field, KeyColumn, KeySchema, Store
from forecache.serve.store.manifest import StalePolicy

ROWS = churn_rows(2000) | {"a b/ü?#%": {"churn_probability": None, "risk_segment": "odd"}, "versions": {
    "churn_probability": 0.5, "risk_segment": "named like a path"}}  # fmt: skip
VISIT_KEY = KeySchema((KeyColumn("shop", "string"), KeyColumn("visit", "int")))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    settings = load_settings(home=tmp_path_factory.mktemp("reader"))
    store = settings.store_path
    write_version(store, "churn", churn_rows(10))
    write_version(store, "churn", ROWS)
    visits = {("a|b", 1): {"score": 1.5}, ("%7C", 2): {"score": 2.5}}
    write_version(store, "visits", visits, key=VISIT_KEY, fields=(Field("score", "double"),))
    write_version(store, "spend", {"00001": {"amount": 7}}, fields=(Field("amount", "bigint"),))
    write_version(store, "old", churn_rows(3), as_of="1998-06-30", policy=StalePolicy(36.0, "refuse"))
    write_version(store, "aged", churn_rows(3), as_of="1998-06-30")
    Store(store / "unpublished").layout.create()
    (store / "Not-a-pipeline").mkdir()
    (settings.home_path / "secret.json").write_text('{"secret": 1}')
    with running_reader(settings, reader_max_body_bytes=65536) as running:
        yield running


@pytest.fixture
def http(reader: RunningReader) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=reader.url) as client:
        yield client


def assert_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"] == f"urn:forecache:problem:{slug}"
    assert problem["title"]
    assert problem["detail"]
    return problem


def test_one_key(http: httpx.Client) -> None:
    response = http.get("/v1/churn/00042")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    data = response.json()
    assert data["key"] == "00042"
    assert data["value"] == ROWS["00042"]
    assert (data["source"], data["store_version"], data["stale"]) == ("precomputed", 2, False)
    assert data["as_of"] == yesterday()
    assert 0 <= data["age_s"] < 2 * 86400


@pytest.mark.parametrize("path", ["/v1/churn/a%20b%2F%C3%BC%3F%23%25", "/v1/churn/a b/%C3%BC%3F%23%25"])
def test_a_key_of_any_text_is_found_by_its_percent_encoding(http: httpx.Client, path: str) -> None:
    assert http.get(path).json()["value"]["risk_segment"] == "odd"


def test_composite_keys(http: httpx.Client) -> None:
    assert http.get("/v1/visits/a%257Cb%7C1").json()["value"] == {"score": 1.5}
    assert http.get("/v1/visits/%25257C|2").json()["value"] == {"score": 2.5}
    many = http.post("/v1/visits", json={"keys": ["a%7Cb|1", "x|9"]}).json()
    assert [row["found"] for row in many["results"]] == [True, False]
    assert_problem(http.get("/v1/visits/alone"), 400, "bad-key")
    assert_problem(http.get("/v1/visits/a|b"), 400, "bad-key")


def test_fields(http: httpx.Client) -> None:
    assert http.get("/v1/churn/00001?fields=risk_segment").json()["value"] == {"risk_segment": "high"}
    data = http.get("/v1/churn/00001", params={"fields": "risk_segment,churn_probability"}).json()
    assert list(data["value"]) == ["risk_segment", "churn_probability"]
    for query in ("fields=nope", "fields=", "field=risk_segment", "fields=risk_segment&x=1"):
        assert_problem(http.get(f"/v1/churn/00001?{query}"), 400, "bad-request")


def test_many_keys_keep_their_order(http: httpx.Client) -> None:
    keys = [f"{index:05d}" for index in range(999, -1, -1)]
    keys[500] = "nobody"
    data = http.post("/v1/churn", json={"keys": keys, "fields": ["churn_probability"]}).json()
    assert [row["key"] for row in data["results"]] == keys
    assert [row["found"] for row in data["results"]].count(False) == 1
    assert data["results"][500] == {"key": "nobody", "found": False}
    assert data["results"][7]["value"] == {"churn_probability": ROWS[keys[7]]["churn_probability"]}
    assert data["store_version"] == 2


def test_more_keys_than_allowed_are_refused(http: httpx.Client) -> None:
    problem = assert_problem(http.post("/v1/churn", json={"keys": ["k"] * 1001}), 422, "too-many-keys")
    assert problem["max_keys"] == 1000


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", "3", "{}", '{"keys": "00001"}', '{"keys": null}', '{"keys": ["1"], "field": []}',
     '{"keys": ["1"], "fields": [1]}', '{"keys": ["1"], "fields": ["nope"]}', '{"keys": [1.5]}', '{"keys": [null]}',
     '{"keys": [[1]]}', '{"keys": [""]}', '{"keys": ["\\ud800"]}', "\xff", '{"keys": [' + "[" * 20000],
)  # fmt: skip
def test_bodies_that_are_no_request_are_refused(http: httpx.Client, body: str) -> None:
    response = http.post("/v1/churn", content=body.encode("latin-1"), headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"


def test_a_body_of_another_media_type_is_refused(http: httpx.Client) -> None:
    body = b'{"keys": ["00001"]}'
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "jsonx", "application/jsonx"):
        response = http.post("/v1/churn", content=body, headers={"content-type": media_type})
        assert_problem(response, 415, "unsupported-media-type")
    for media_type in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"):
        assert http.post("/v1/churn", content=body, headers={"content-type": media_type}).status_code == 200
    assert http.post("/v1/churn", content=body).status_code == 200


def test_a_body_that_is_too_large_is_refused_whether_or_not_its_length_is_said(http: httpx.Client) -> None:
    body = b'{"keys": ["' + b"k" * 70000 + b'"]}'
    assert_problem(http.post("/v1/churn", content=body), 413, "body-too-large")
    assert_problem(http.post("/v1/churn", content=iter([body[:1000], body[1000:]])), 413, "body-too-large")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/churn/00001", "GET, HEAD"), ("PUT", "/v1/churn", "GET, POST, HEAD"),
        ("POST", "/v1", "GET, HEAD"),
        ("POST", "/v1/churn/00001", "GET, HEAD"), ("POST", "/metrics", "GET, HEAD"), ("PATCH", "/readyz", "GET, HEAD"),
        ("GET", "/get-online-features", "POST"), ("OPTIONS", "/v1/churn", "GET, POST, HEAD"),
        ("TRACE", "/versions/churn", "GET, HEAD"),
    ],
)  # fmt: skip
def test_methods_that_are_not_there_are_refused_with_those_that_are(
    http: httpx.Client, method: str, path: str, allow: str
) -> None:
    response = http.request(method, path)
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == allow


@pytest.mark.parametrize(
    ("path", "status", "slug"),
    [
        ("/v1/churn/nobody", 404, "unknown-key"), ("/v1/nope/1", 404, "unknown-pipeline"),
        ("/v1/nope", 404, "unknown-pipeline"), ("/v1/Not-a-pipeline/1", 404, "unknown-pipeline"),
        ("/v1/", 404, "unknown-pipeline"), ("/v2/churn/1", 404, "no-such-route"),
        ("/V1/churn/00001", 404, "no-such-route"), ("/v1/churn/", 400, "bad-key"),
        ("/v1/churn/" + "k" * 512, 400, "bad-key"), ("/v1/churn/" + "k" * 5000, 414, "path-too-long"),
        ("/v1/churn/x?fields=" + "k" * 5000, 414, "path-too-long"), ("/v1/unpublished", 503, "not-published"),
        ("/v1/unpublished/1", 503, "not-published"), ("/versions/unpublished", 503, "not-published"),
        ("/v1/old/00001", 503, "stale"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_problem(http: httpx.Client, path: str, status: int, slug: str) -> None:
    assert_problem(http.get(path), status, slug)


@pytest.mark.parametrize(
    "path",
    ["/v1/../secret.json", "/v1/%2e%2e/secret.json", "/v1/..%2fsecret.json", "/v1/churn/../../../secret.json",
     "/v1/churn/..%2f..%2f..%2fsecret.json", "/v1/churn%00/x", "/v1/churn/%00", "//secret.json",
     "/v1/churn/%ff%fe", "/v1/.%00./x", "/../../../etc/passwd", "/v1/churn/segments"],
)  # fmt: skip
def test_nothing_outside_the_store_is_reached(reader: RunningReader, path: str) -> None:
    """Sent as it stands: HTTP clients would resolve the dots themselves."""
    with socket.create_connection(("127.0.0.1", reader.port), timeout=60) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert answer.split(b" ", 2)[1] in (b"400", b"404"), answer
    assert b'"secret": 1' not in answer
    assert b"root:" not in answer


def test_a_stale_version_is_refused_or_flagged_as_its_policy_says(http: httpx.Client) -> None:
    problem = assert_problem(http.get("/v1/old/00001"), 503, "stale")
    assert problem["as_of"] == "1998-06-30"
    assert problem["store_version"] == 1
    assert_problem(http.post("/v1/old", json={"keys": ["00001"]}), 503, "stale")
    for asked in ({"features": ["old:risk_segment"]}, {"feature_service": "old"}):
        body = {"entities": {"customer_id": ["00001"]}, **asked}
        assert_problem(http.post("/get-online-features", json=body), 503, "stale")
    assert http.get("/v1/old").json()["stale"] is True
    aged = http.get("/v1/aged/00001").json()
    assert aged["stale"] is True
    assert aged["value"]["risk_segment"] == "high"


def test_if_none_match_answers_304_while_the_version_stays(http: httpx.Client) -> None:
    for path in ("/v1/churn/00001", "/v1/churn"):
        etag = http.get(path).headers["etag"]
        for header in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
            response = http.get(path, headers={"if-none-match": header})
            assert response.status_code == 304
            assert response.content == b""
            assert response.headers["etag"] == etag
        assert http.get(path, headers={"if-none-match": 'W/"churn-1"'}).status_code == 200
    assert_problem(http.get("/v1/churn/nobody", headers={"if-none-match": etag}), 404, "unknown-key")


def test_head_has_the_headers_of_get_and_no_body(http: httpx.Client) -> None:
    for path in ("/v1/churn/00001", "/v1/churn", "/v1", "/healthz", "/openapi.json", "/v1/churn/nobody"):
        get, head = http.get(path, headers={"accept-encoding": ""}), http.head(path, headers={"accept-encoding": ""})
        assert head.status_code == get.status_code
        assert head.content == b""
        assert head.headers["content-length"] == get.headers["content-length"]
        assert head.headers.get("etag") == get.headers.get("etag")


def test_large_answers_are_compressed_for_clients_that_ask(reader: RunningReader, http: httpx.Client) -> None:
    small, large = {"keys": ["00001"]}, {"keys": [f"{index:05d}" for index in range(1000)]}
    plain = http.post("/v1/churn", json=large, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    with httpx.stream("POST", f"{reader.url}/v1/churn", json=large, headers={"accept-encoding": "gzip"}) as packed:
        raw = b"".join(packed.iter_raw())
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "accept-encoding"
    assert len(raw) < len(plain.content) / 3
    assert gzip.decompress(raw)[:60] == plain.content[:60]
    assert "content-encoding" not in http.post("/v1/churn", json=small, headers={"accept-encoding": "gzip"}).headers


def test_metadata_and_history(http: httpx.Client) -> None:
    data = http.get("/v1/churn").json()
    assert (data["pipeline"], data["store_version"], data["keys"]) == ("churn", 2, len(ROWS))
    assert data["key"] == [{"name": "customer_id", "type": "string"}]
    assert data["fields"][0] == {"name": "churn_probability", "type": "double"}
    assert data["policy"] == {"max_age_h": 36.0, "on_stale": "flag"}
    versions = http.get("/versions/churn").json()["versions"]
    assert [row["store_version"] for row in versions] == [2, 1]
    assert [row["state"] for row in versions] == [["serving", "current"], []]
    listed = {row["pipeline"]: row for row in http.get("/v1").json()["pipelines"]}
    assert sorted(listed) == ["aged", "churn", "old", "spend", "visits"]
    assert listed["old"]["stale"] is True


def test_a_key_called_versions_is_had_like_any_other(http: httpx.Client) -> None:
    assert http.get("/v1/churn/versions").json()["value"]["risk_segment"] == "named like a path"
    data = http.post("/v1/churn", json={"keys": ["versions"]}).json()
    assert data["results"][0]["value"]["risk_segment"] == "named like a path"


def test_metrics_count_what_was_asked(http: httpx.Client) -> None:
    def read() -> dict[tuple[str, ...], float]:
        families = text_string_to_metric_families(http.get("/metrics").text)
        return {
            (sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples
        }

    before = read()
    for _ in range(3):
        http.get("/v1/churn/00001")
    http.get("/v1/churn/nobody")
    http.post("/v1/churn", json={"keys": ["00001", "00002", "nobody"]})
    after = read()

    def grown(*name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("forecache_reader_requests_total", "one", "200") == 3
    assert grown("forecache_reader_requests_total", "one", "404") == 1
    assert grown("forecache_reader_requests_total", "many", "200") == 1
    assert grown("forecache_reader_hits_total", "churn") == 5
    assert grown("forecache_reader_misses_total", "churn") == 2
    assert grown("forecache_reader_request_duration_seconds_count", "one") == 4
    assert after["forecache_reader_version", "churn"] == 2
    assert after["forecache_reader_mapped_bytes", "churn"] > 10_000
    assert 0 < after["forecache_reader_swap_seconds", "churn"] < 10
    assert after["forecache_reader_age_seconds", "aged"] > 365 * 86400
    assert after["forecache_reader_workers",] == 1


def test_the_feast_format(http: httpx.Client) -> None:
    body = {
        "entities": {"customer_id": ["00001", "nobody", "a b/ü?#%"]},
        "features": ["churn:churn_probability", "spend:amount", "churn:risk_segment"],
    }
    data = http.post("/get-online-features", json=body).json()
    assert data["metadata"]["feature_names"] == ["customer_id", "churn_probability", "risk_segment", "amount"]
    by_name = dict(zip(data["metadata"]["feature_names"], data["results"], strict=True))
    assert by_name["customer_id"]["values"] == ["00001", "nobody", "a b/ü?#%"]
    probability = by_name["churn_probability"]
    assert probability["values"] == [ROWS["00001"]["churn_probability"], None, None]
    assert probability["statuses"] == ["PRESENT", "NOT_FOUND", "NULL_VALUE"]
    assert probability["event_timestamps"][0] > yesterday()
    assert probability["event_timestamps"][1] == "1970-01-01T00:00:00Z"
    assert by_name["amount"]["values"] == [7, None, None]

    full = http.post("/get-online-features", json=body | {"full_feature_names": True}).json()
    assert full["metadata"]["feature_names"][1:] == ["churn__churn_probability", "churn__risk_segment", "spend__amount"]
    service = {"entities": {"customer_id": ["00001"]}, "feature_service": "churn"}
    names = http.post("/get-online-features", json=service).json()["metadata"]["feature_names"]
    assert names == ["customer_id", "churn_probability", "risk_segment"]
    composite = {"entities": {"shop": ["a|b"], "visit": [1]}, "features": ["visits:score"]}
    data = http.post("/get-online-features", json=composite).json()
    assert data["metadata"]["feature_names"] == ["shop", "visit", "score"]
    assert data["results"][2]["values"] == [1.5]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400), ({"entities": {}}, 400), ({"entities": {"customer_id": ["1"]}}, 400),
        ({"entities": {"customer_id": "1"}, "features": ["churn:risk_segment"]}, 400),
        ({"entities": {"customer_id": ["1"]}, "features": ["risk_segment"]}, 400),
        ({"entities": {"customer_id": ["1"]}, "features": ["churn:nope"]}, 400),
        ({"entities": {"customer_id": ["1"]}, "features": ["nope:x"]}, 404),
        ({"entities": {"customer_id": ["1"]}, "features": ["../x:x"]}, 404),
        ({"entities": {"other": ["1"]}, "features": ["churn:risk_segment"]}, 400),
        ({"entities": {"customer_id": ["1", "2"], "x": ["1"]}, "features": ["churn:risk_segment"]}, 400),
        ({"entities": {"customer_id": [None]}, "features": ["churn:risk_segment"]}, 400),
        ({"entities": {"customer_id": [[1]]}, "features": ["churn:risk_segment"]}, 400),
        ({"entities": {"shop": ["a"], "visit": ["x"]}, "features": ["visits:score"]}, 400),
        ({"entities": {"customer_id": ["1"] * 1001}, "features": ["churn:risk_segment"]}, 422),
        ({"entities": {"customer_id": ["1"]}, "features": ["churn:risk_segment", "aged:risk_segment"]}, 400),
        ({"entities": {"customer_id": ["1"]}, "feature_service": 3}, 400),
        ({"entities": {"customer_id": ["1"]}, "features": ["churn:risk_segment"], "full_feature_names": "yes"}, 400),
    ],
)  # fmt: skip
def test_feast_requests_that_cannot_be_answered_are_problems(
    http: httpx.Client, body: dict[str, Any], status: int
) -> None:
    response = http.post("/get-online-features", json=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
